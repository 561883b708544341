"""Shell: Ray Serve with two replicas that take the bytes of the body; `rival_work.py` says what they compute.

python -m bench.rival_ray PORT

Each line that it reads is what its replicas are to compute from now on, in the words of `rival_work.py`.
"""

import os
import sys

import ray
from ray import serve
from starlette.requests import Request

from .rival_work import WORK, at_once, make_work


class Classifier:
    def __init__(self, work: str) -> None:
        self._work = make_work(work)

    async def __call__(self, request: Request) -> dict[str, int]:
        return {"class": self._work([await request.body()])[0]}


class BatchClassifier(Classifier):
    async def __call__(self, request: Request) -> dict[str, int]:
        return {"class": await self._classify(await request.body())}

    @serve.batch(max_batch_size=at_once(), batch_wait_timeout_s=0.0)
    async def _classify(self, pictures: list[bytes]) -> list[int]:
        return self._work(pictures)


def deploy(work: str) -> None:
    """Ray replaces the replicas one after another when it is asked again."""
    chosen = Classifier if at_once() == 1 else BatchClassifier
    serve.run(serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.5})(chosen).bind(work))


if __name__ == "__main__":
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    deploy(os.environ[WORK])
    for line in sys.stdin:  # as long as somebody may still write
        deploy(line.strip())
