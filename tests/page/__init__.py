"""The Web page in a real browser, against real pools."""
