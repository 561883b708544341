"""HTTP and the Web page: a client of the broker and of the controller like any other."""
