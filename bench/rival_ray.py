"""Shell: Ray Serve with two replicas that take the bytes of the body; `rival_work.py` says what they compute.

python -m bench.rival_ray PORT
"""

import sys
import time

import ray
from ray import serve
from starlette.requests import Request

from .rival_work import make_work


class Classifier:
    def __init__(self) -> None:
        self._work = make_work()

    async def __call__(self, request: Request) -> dict[str, int]:
        return {"class": self._work([await request.body()])[0]}


if __name__ == "__main__":
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.5})(Classifier).bind())
    while True:
        time.sleep(60)  # until it is ended
