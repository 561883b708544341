"""The controller of `tests.control_process` with one more verb: it computes until somebody says that it is enough.

python -m tests.dawdling_control_process HOME
"""

import sys
from pathlib import Path

from control import verbs
from control.asks import Nothing
from control.desk import Desk
from hotpool.home import Home
from tests.control_process import run

VERB = "dawdle"


def begun(home: Home) -> Path:
    """The file that is there once it computes."""
    return home.run / "begun"


def enough(home: Home) -> Path:
    """The file that ends it."""
    return home.run / "enough"


def dawdle(desk: Desk, asked: Nothing) -> int:
    """Holds the interpreter's lock as much as Python code can."""
    begun(desk.home).touch()
    rounds = 0
    while not enough(desk.home).exists():
        rounds += sum(range(10_000)) > 0
    return rounds


if __name__ == "__main__":
    verbs.VERBS[VERB] = verbs.Verb(Nothing, dawdle)
    run(Home(Path(sys.argv[1])))
