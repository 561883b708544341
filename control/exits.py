"""Pure: the exit codes of `hotpool`, one table for errors and one for how a rollout ended."""

from enum import IntEnum

from hotpool import errors
from hotpool.states import Phase


class Exit(IntEnum):
    OK = 0  # succeeded, unchanged, healthy
    UNEXPECTED = 1  # a bug, or some of several files failed
    USAGE = 2  # the command or the configuration is wrong, or names what does not exist
    ROLLED_BACK = 3  # the rollout ended and the stable version serves
    PAUSED = 4  # the rollout waits for a person
    TIMEOUT = 5  # our --timeout passed; what was ordered goes on
    CONFLICT = 6  # something else is under way or has the name, or the pool is in no state for it
    UNREACHABLE = 7  # no broker, or no controller
    DEGRADED = 8  # an operator is needed
    IN_PROGRESS = 9  # not ended yet, and we no longer wait for it
    REJECTED = 10  # the version was refused; service untouched
    NOTHING_TO_DO = 11  # there is nothing the command applies to
    INTERRUPTED = 130  # Ctrl-C, as shells have it


# The most special class that fits decides.
ERROR_EXITS: dict[type[errors.HotpoolError], Exit] = {
    errors.HotpoolError: Exit.UNEXPECTED,
    errors.RequestError: Exit.USAGE,
    errors.DeadlineExceeded: Exit.TIMEOUT,
    errors.BrokerUnreachable: Exit.UNREACHABLE,
    errors.ControllerUnreachable: Exit.UNREACHABLE,
    errors.CapacityError: Exit.UNEXPECTED,
    errors.OperatorError: Exit.USAGE,
    errors.ConfigError: Exit.USAGE,
    errors.BadVersion: Exit.REJECTED,
    errors.JournalCorrupt: Exit.DEGRADED,
    errors.Unwritable: Exit.DEGRADED,
    errors.Conflict: Exit.CONFLICT,
    errors.StaleEpoch: Exit.CONFLICT,
    errors.NothingToDo: Exit.NOTHING_TO_DO,
}

PHASE_EXITS: dict[Phase, Exit] = {
    Phase.PENDING: Exit.IN_PROGRESS,
    Phase.PREFLIGHT: Exit.IN_PROGRESS,
    Phase.CANARY: Exit.IN_PROGRESS,
    Phase.ANALYZING: Exit.IN_PROGRESS,
    Phase.ROLLING: Exit.IN_PROGRESS,
    Phase.BAKING: Exit.IN_PROGRESS,
    Phase.COMMITTING: Exit.IN_PROGRESS,
    Phase.ROLLING_BACK: Exit.IN_PROGRESS,
    Phase.SUCCEEDED: Exit.OK,
    Phase.REJECTED: Exit.REJECTED,
    Phase.ROLLED_BACK: Exit.ROLLED_BACK,
    Phase.ROLLBACK_FAILED: Exit.DEGRADED,
}


def exit_for(error: errors.HotpoolError) -> Exit:
    """The row of the error's own class, else of the nearest one above it."""
    return next(ERROR_EXITS[kind] for kind in type(error).__mro__ if kind in ERROR_EXITS)
