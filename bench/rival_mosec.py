"""Shell: Mosec with two workers that take the bytes of the body; `rival_work.py` says what they compute.

python -m bench.rival_mosec --port PORT --address 127.0.0.1
"""

from typing import Any

from mosec import Server, Worker

from .rival_work import at_once, make_work


class Classifier(Worker):
    def __init__(self) -> None:
        super().__init__()
        self._work = make_work()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: Any) -> Any:
        """data: one picture; a list of them where it hands over several."""
        return self._work([data])[0] if at_once() == 1 else self._work(data)


if __name__ == "__main__":
    server = Server()  # it reads the arguments itself
    # In ms, the least there is: nobody waits for more than there is.
    server.append_worker(Classifier, num=2, max_batch_size=at_once(), max_wait_time=1)
    server.run()
