"""Shell: Mosec with two workers that take the bytes of the body; `rival_work.py` says what they compute.

python -m bench.rival_mosec --port PORT --address 127.0.0.1
"""

from mosec import Server, Worker

from .rival_work import make_work


class Classifier(Worker):
    def __init__(self) -> None:
        super().__init__()
        self._work = make_work()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> int:
        return self._work([data])[0]


if __name__ == "__main__":
    server = Server()  # it reads the arguments itself
    server.append_worker(Classifier, num=2)
    server.run()
