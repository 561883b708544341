"""Shell: Mosec with a model that does nothing and two workers; it takes the bytes of the body.

python -m bench.rival_mosec --port PORT --address 127.0.0.1
"""

from mosec import Server, Worker


class Nothing(Worker):
    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> int:
        return 0


if __name__ == "__main__":
    server = Server()  # it reads the arguments itself
    server.append_worker(Nothing, num=2)
    server.run()
