"""Shell: LitServe with two workers that take a form's field `file`; `rival_work.py` says what they compute.

python -m bench.rival_litserve PORT
"""

import sys
from typing import Any

import litserve

from .rival_work import at_once, make_work


class Classifier(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self._work = make_work()

    def decode_request(self, request):  # without a type: LitServe would take any for that of a parameter in the query
        return request["file"].file.read()

    def predict(self, x: Any) -> Any:
        """x: one picture; a list of them where it hands over several."""
        return self._work([x])[0] if at_once() == 1 else self._work(x)

    def encode_response(self, output: int) -> dict[str, int]:
        return {"class": output}


if __name__ == "__main__":
    api = Classifier(max_batch_size=at_once())  # waits for no more than there is: that is its default
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=2, timeout=60)
    server.run(
        port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False, num_api_servers=1, log_level="error",
        pretty_logs=False,
    )  # fmt: skip
