"""A supervisor whose workers have the versions of `tests.odd_workers`.

python -m tests.odd_supervisor --home HOME --config FILE      the supervisor
python -m tests.odd_supervisor CONTROL_FD LIFELINE_FD SOCKET  its template (the supervisor starts it)
"""

import argparse
import sys
from pathlib import Path

from hotpool.config import load_config
from hotpool.home import Home
from hotpool.logs import log_to_stderr
from tests.odd_workers import load_odd
from workers.__main__ import plan_for
from workers.orders import Settings
from workers.supervisor import Supervisor
from workers.template import main as template_main
from workers.worker import serve


def serve_odd(settings: Settings, lifeline: int) -> int:
    return serve(settings, load_odd, lifeline)


def supervise() -> None:
    log_to_stderr()
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path)
    parser.add_argument("--config", type=Path)
    arguments = parser.parse_args()
    config = load_config(arguments.config)
    Supervisor(Home(arguments.home), config, plan_for(config), template="tests.odd_supervisor").run()


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        template_main(lambda: serve_odd)
    else:
        supervise()
