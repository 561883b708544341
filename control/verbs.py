"""Shell: the verbs of the controller's socket: a table from a verb to what it takes and what it does.

Results are those of the command line's `-o json`.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from hotpool.disk import full_disk
from hotpool.errors import BadInput, HotpoolError, TooLarge
from hotpool.messages import Answer, Ask
from hotpool.wire import MAX_ANSWER_BYTES, encode_value

from . import asks, intake, orders, registry
from .desk import Desk
from .facts import rollout_view, status_view
from .health import ordinary, pool_health
from .jobs import add_version
from .recorder import render_report
from .rollout import Kind, Rollout
from .rollout_metrics import gate_progress, rollout_families
from .sight import find, see
from .trouble import TROUBLE, as_error
from .versions import find_version, list_versions, refuse_name

log = logging.getLogger("hotpool.control")

BROKER_TIMEOUT_S = 0.5

SCRAPE_TIMEOUT_S = 0.2  # of each question to the broker: who scrapes waits for a second
_NIL = encode_value(None)
_SLACK_BYTES = 64  # of an answer, beside its result


def answer(desk: Desk, ask: Ask) -> Answer:
    """Whatever is asked: the result, or what is wrong."""
    try:
        result = encode_value(_perform(desk, ask))
        if memoryview(result).nbytes > MAX_ANSWER_BYTES - _SLACK_BYTES:
            raise TooLarge(f"the answer to {ask.verb} has more than {MAX_ANSWER_BYTES} bytes; ask for less")
    except HotpoolError as error:
        return Answer(ask.seq, _NIL, error.code, str(error))
    except TROUBLE as error:
        told = as_error(error)
        return Answer(ask.seq, _NIL, told.code, str(told))
    except Exception:  # the outermost level of a call: a bug here must not end the controller
        log.exception("verb=%s", ask.verb)
        return Answer(ask.seq, _NIL, HotpoolError.code, f"a bug in hotpool; see the log of control for {ask.verb}")
    return Answer(ask.seq, result)


def _perform(desk: Desk, ask: Ask) -> Any:
    if (verb := VERBS.get(ask.verb)) is None:
        raise BadInput(f"there is no verb {ask.verb[:100]!r}; known are {', '.join(VERBS)}")
    return verb.act(desk, asks.read(ask.verb, verb.takes, ask.arguments))


# ---- looking


def _status(desk: Desk, asked: asks.Nothing) -> dict[str, Any]:
    """As `hotpool status`, with the `alarm` that the controller has raised, or an empty text."""
    report, ledger = desk.report(BROKER_TIMEOUT_S), desk.ledger()
    health = pool_health(report, ledger, desk.model, has_controller=True, full_disk=full_disk(desk.home.root))
    view = status_view(report, ledger, desk.model, os.getpid(), health)
    return {**view, "alarm": ledger.alarms.get(desk.model, "")}


def _metrics(desk: Desk, asked: asks.Nothing) -> Any:
    """Families of `hotpool/messages.py` that the journal, the gates and this socket have; the broker has the others."""
    ledger = desk.ledger()
    last = ledger.last(desk.model)
    verdicts = see(last, desk, 0.0, monotonic(), SCRAPE_TIMEOUT_S, "").verdicts if last and not last.is_over else ()
    families = (*rollout_families(ledger), gate_progress(last, verdicts), desk.malformed.family())
    return msgspec.to_builtins(families)


def _versions(desk: Desk, asked: asks.Nothing) -> list[dict[str, Any]]:
    """As `hotpool versions list`."""
    ledger = desk.ledger()
    return [registry.version_view(ledger, manifest) for manifest in list_versions(desk.home, desk.model)]


def _version(desk: Desk, asked: asks.OneVersion) -> dict[str, Any]:
    """As `hotpool versions show`."""
    return registry.version_view(desk.ledger(), find_version(desk.home, desk.model, asked.version))


def _rollouts(desk: Desk, asked: asks.Newest) -> list[dict[str, Any]]:
    """As `hotpool rollout history`: the newest, the oldest of them first."""
    return [rollout_view(one) for one in desk.ledger().history(desk.model)[-asked.n :]]


def _rollout(desk: Desk, asked: asks.AnyRollout) -> dict[str, Any]:
    """As `hotpool rollout get`."""
    one = find(desk.ledger(), desk.model, asked.number)
    return see(one, desk, 0.0, monotonic(), BROKER_TIMEOUT_S, full_disk(desk.home.root)).view()


def _report(desk: Desk, asked: asks.OneRollout) -> dict[str, str]:
    """The page of a rollout, `html`."""
    one = find(desk.ledger(), desk.model, asked.number)
    with desk.journal() as journal:
        return {"html": render_report(desk.home, journal, one.number)}


def _audit(desk: Desk, asked: asks.Newest) -> list[dict[str, Any]]:
    """As `hotpool audit tail`: the newest events, the oldest of them first."""
    with desk.journal() as journal:
        return [asdict(event) for event in journal.events(after=journal.last_seq() - asked.n)]


# ---- versions


def _add(desk: Desk, asked: asks.Add) -> dict[str, int]:
    """Begins a `job` that does what `hotpool versions add` does, and with then_start a `start` after it. Paths are those of the
    controller's host."""
    if not asked.then_start:
        refuse_name(desk.home, desk.model, asked.name)
    return {"job": desk.jobs.begin(lambda stopping: add_version(desk.home, desk.config, asked, stopping))}


def _job(desk: Desk, asked: asks.OneJob) -> dict[str, Any]:
    """How it goes: `state` is running, done (with a `version`) or failed. `error` says why, or why there is no `rollout`."""
    return desk.jobs.view(asked.job)


def _remove(desk: Desk, asked: asks.Remove) -> dict[str, str]:
    """As `hotpool versions remove`."""
    digest = registry.find_digest(desk.home, desk.ledger(), desk.model, asked.version)
    with desk.journal() as journal:
        registry.remove(journal, desk.home, desk.model, digest, operator=asked.operator, reason=asked.reason)
    return {"removed": digest}


# ---- rollouts


def _start(desk: Desk, asked: asks.Start) -> dict[str, Any]:
    """Orders a rollout. `result`: ordered, planned (with dry_run), or unchanged: the version is stable already."""
    ledger, chosen = desk.ledger(), asked.chosen
    intake.require_version(ledger, desk.model, asked.version)
    if asked.eval_folder:
        folder = Path(asked.eval_folder)
        chosen |= intake.labelled_settings(desk.home, ledger, desk.model, asked.version, folder)
    workers = ordinary(desk.report(BROKER_TIMEOUT_S), desk.model)
    with desk.journal() as journal:
        made = intake.start(
            journal, desk.config, model=desk.model, version=asked.version, workers=workers, chosen=chosen,
            operator=asked.operator, reason=asked.reason, force=asked.force, dry_run=asked.dry_run,
        )  # fmt: skip
    result = "unchanged" if made is None else "planned" if asked.dry_run else "ordered"
    return {"result": result, "rollout": made and rollout_view(made)}


def _undo(desk: Desk, asked: asks.Undo) -> dict[str, Any]:
    """Orders a rollout back to the stable version before this one, or aborts the one under way. `result`: ordered, aborted, or
    planned (with dry_run)."""
    workers = ordinary(desk.report(BROKER_TIMEOUT_S), desk.model)
    with desk.journal() as journal:
        made = intake.undo(
            journal, desk.config, model=desk.model, workers=workers, chosen={"strategy": asked.strategy},
            operator=asked.operator, reason=asked.reason, dry_run=asked.dry_run, number=asked.number,
        )  # fmt: skip
    result = "planned" if asked.dry_run else "ordered" if made.kind is Kind.UNDO else "aborted"
    return {"result": result, "rollout": rollout_view(made)}


def _retry(desk: Desk, asked: asks.Signed) -> dict[str, Any]:
    """Orders the last rollout once more, after it failed; or its rollback, when that has failed."""
    workers = ordinary(desk.report(BROKER_TIMEOUT_S), desk.model)
    with desk.journal() as journal:
        made = orders.retry(journal, model=desk.model, workers=workers, operator=asked.operator, reason=asked.reason)
    return {"rollout": rollout_view(made)}


def _pause(desk: Desk, asked: asks.Command) -> dict[str, Any]:
    """Holds the rollout under way."""
    return _order(desk, asked, orders.pause)


def _resume(desk: Desk, asked: asks.Command) -> dict[str, Any]:
    """Lets a paused rollout go on."""
    return _order(desk, asked, orders.resume)


def _promote(desk: Desk, asked: asks.Promote) -> dict[str, Any]:
    """Lets a rollout leave its pause or the present step of its canary; full: all steps that are left."""
    return _order(desk, asked, orders.promote, full=asked.full, step=asked.step)


def _abort(desk: Desk, asked: asks.Command) -> dict[str, Any]:
    """Ends the rollout under way and brings every worker back to the stable version."""
    return _order(desk, asked, orders.abort)


def _order(desk: Desk, asked: asks.Command, order: Callable[..., Rollout], **more: Any) -> dict[str, Any]:
    with desk.journal() as journal:
        made = order(
            journal, model=desk.model, operator=asked.operator, reason=asked.reason, number=asked.number, **more
        )
    return {"rollout": rollout_view(made)}


@dataclass(frozen=True, slots=True)
class Verb:
    takes: type[asks.Arguments]
    act: Callable[[Desk, Any], Any]


VERBS = {
    "status": Verb(asks.Nothing, _status),
    "metrics": Verb(asks.Nothing, _metrics),
    "versions": Verb(asks.Nothing, _versions),
    "version": Verb(asks.OneVersion, _version),
    "add": Verb(asks.Add, _add),
    "job": Verb(asks.OneJob, _job),
    "remove": Verb(asks.Remove, _remove),
    "rollouts": Verb(asks.Newest, _rollouts),
    "rollout": Verb(asks.AnyRollout, _rollout),
    "start": Verb(asks.Start, _start),
    "undo": Verb(asks.Undo, _undo),
    "retry": Verb(asks.Signed, _retry),
    "pause": Verb(asks.Command, _pause),
    "resume": Verb(asks.Command, _resume),
    "promote": Verb(asks.Promote, _promote),
    "abort": Verb(asks.Command, _abort),
    "report": Verb(asks.OneRollout, _report),
    "audit": Verb(asks.Newest, _audit),
}
