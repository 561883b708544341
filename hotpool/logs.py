"""Shell: one log format for all services, on standard error; whoever starts a service decides where it goes."""

import logging


def log_to_stderr(level: int = logging.INFO) -> None:
    """`2026-11-23T10:00:00 INFO hotpool.broker started`; what follows the logger's name is key=value."""
    logging.raiseExceptions = False  # where a line can't be written, such as on a full disk, no more shall be
    logging.basicConfig(level=level, format="%(asctime)s.%(msecs)03d %(levelname)s %(name)s %(message)s",
                        datefmt="%Y-%m-%dT%H:%M:%S")  # fmt: skip
