"""Shell: BentoML with two workers that take a form's field `file`; `rival_work.py` says what they compute.

python -m bentoml serve bench.rival_bentoml:Classifier --host 127.0.0.1 --port PORT
"""

from pathlib import Path

import bentoml

from .rival_work import at_once, make_work


@bentoml.service(workers=2, traffic={"timeout": 60})
class Classifier:
    def __init__(self) -> None:
        self._work = make_work()

    if at_once() == 1:

        @bentoml.api(route="/predict")
        def predict(self, file: Path) -> int:
            return self._work([file.read_bytes()])[0]

    else:

        @bentoml.api(route="/predict", batchable=True, max_batch_size=at_once())
        def predict(self, file: list[Path]) -> list[int]:
            return self._work([one.read_bytes() for one in file])
