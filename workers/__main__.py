"""Shell: `python -m workers`: arguments, configuration, lock, the pinning plan."""

import argparse
import logging
import sys
from pathlib import Path

from hotpool.config import Config, load_config
from hotpool.environment import find_config, find_home
from hotpool.errors import HotpoolError
from hotpool.locks import hold
from hotpool.logs import log_to_stderr

from .cgroups import cpu_quota
from .cores import allowed_cores
from .pinning import Plan, plan_cores
from .supervisor import Supervisor

log = logging.getLogger("hotpool.workers")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workers", description="The worker processes and their supervisor.")
    parser.add_argument(
        "--home", type=Path, help="folder of sockets, versions and logs (default: HOTPOOL_HOME or ./var)"
    )
    parser.add_argument("--config", type=Path, help="TOML file (default: HOTPOOL_CONFIG or ./hotpool.toml)")
    arguments = parser.parse_args()
    log_to_stderr()
    try:
        home, config = find_home(arguments.home), load_config(find_config(arguments.config))
        plan = plan_for(config)
        with hold(home.lock("workers"), "another supervisor (process {pid}) runs the workers here; stop it first"):
            Supervisor(home, config, plan).run()
    except HotpoolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def plan_for(config: Config) -> Plan:
    """Raises ConfigError: the workers don't fit on the cores this process may use."""
    pool = config.pool
    plan = plan_cores(allowed_cores(), cpu_quota(), pool.workers, pool.threads, pool.allow_oversubscription)
    if plan.warning:
        log.warning("event=oversubscribed %s", plan.warning)
    log.info("event=plan workers=%d threads=%d cores=%s", len(plan.core_sets), plan.threads, plan.core_sets)
    return plan


if __name__ == "__main__":
    sys.exit(main())
