"""What the log says of settled commands: one record each, with the ids, and an unexpected exception's traceback once.

DEBUG completed; INFO refused by a business rule, cancelled, given back, or to be tried again after an error that the
handler announced; WARNING to be tried again after an unexpected exception or a timeout, and late outcomes that were
dropped; ERROR parked, since a person has to act.
"""

import logging
from collections.abc import Container, Sequence
from typing import Any

from commandbus.logging import about_claimed, in_one_line, log_error
from commandbus.outcome import TIMEOUT, Outcome
from commandbus.payload import sanitise
from commandbus.settlement import Finished

_log = logging.getLogger(__name__)
_OURS = ("code", "message", "type")  # of an outcome's details; the others are the handler's and the middleware's


def tell(group: Sequence[Finished], lost: Container[int], domain: str, worker_id: int) -> None:
    """Log what became of a group that was settled; `lost` are the seqs of what was no longer this worker's."""
    is_verbose = _log.isEnabledFor(logging.DEBUG)
    for finished in group:
        if is_verbose or finished.outcome.event != "COMPLETED" or finished.claimed.seq in lost:
            _tell(finished, finished.claimed.seq in lost, domain, worker_id)


def _tell(finished: Finished, is_lost: bool, domain: str, worker_id: int) -> None:
    claimed, outcome = finished.claimed, finished.outcome
    error, outcome.error = outcome.error, None  # its traceback leads to the outcome: a circle that would stay
    level, what = (logging.WARNING, "late outcome dropped: its lease was lost") if is_lost else _spell(finished, error)
    if not _log.isEnabledFor(level):
        return
    extra: dict[str, Any] = about_claimed(claimed, domain, worker_id)
    own = {name: value for name, value in outcome.details.items() if name not in _OURS}
    known = {"error_code": outcome.details.get("code"), "seconds": finished.seconds, "delay": outcome.delay}
    known |= {"details": sanitise(own).value or None}
    extra |= {"event": "LATE_OUTCOME_DROPPED" if is_lost else outcome.event, "max_attempts": claimed.max_attempts}
    extra |= {name: value for name, value in known.items() if value is not None}
    name = f"{claimed.command_id} ({claimed.command_type})"
    log_error(_log, level, "command %s: %s", name, what, error=error, extra=extra)


def _spell(finished: Finished, error: BaseException | None) -> tuple[int, str]:
    """The level and the words for what became of a command."""
    claimed, outcome = finished.claimed, finished.outcome
    match outcome.event:
        case "COMPLETED":
            return logging.DEBUG, "completed"
        case "BUSINESS_RULE_FAILED":
            return logging.INFO, f"refused by a business rule, {_why(outcome)}"
        case "RETRY_SCHEDULED":
            level = logging.WARNING if error is not None or outcome.error_code == TIMEOUT else logging.INFO
            attempts = f"attempt {outcome.attempts} of {claimed.max_attempts}"
            return level, f"{attempts} failed, again in {outcome.delay or 0:g} s, {_why(outcome)}"
        case "ATTEMPTS_EXHAUSTED":
            return logging.WARNING, f"failed for good, attempt {outcome.attempts} was the last, {_why(outcome)}"
        case "MOVED_TO_TSQ":
            return logging.ERROR, f"parked for an operator, {_why(outcome)}"
        case "RELEASED":
            return logging.INFO, f"given back for {outcome.delay or 0:g} s, {_why(outcome)}"
        case _:
            return logging.INFO, f"{outcome.event}, {_why(outcome)}"


def _why(outcome: Outcome) -> str:
    code, message = outcome.details.get("code"), outcome.details.get("message")
    return f"{outcome.error_code or code}: {in_one_line(outcome.error_message or message or '')}"
