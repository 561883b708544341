"""Shell: LitServe with a model that does nothing and two workers; it takes a form's field `file`.

python -m bench.rival_litserve PORT
"""

import sys

import litserve


class Nothing(litserve.LitAPI):
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request):  # without a type: LitServe would take any for that of a parameter in the query
        return request["file"].file.read()

    def predict(self, x: bytes) -> int:
        return 0

    def encode_response(self, output: int) -> dict[str, int]:
        return {"class": output}


if __name__ == "__main__":
    server = litserve.LitServer(Nothing(), accelerator="cpu", workers_per_device=2, timeout=60)
    server.run(
        port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False, num_api_servers=1, log_level="error",
        pretty_logs=False,
    )  # fmt: skip
