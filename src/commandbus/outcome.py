"""What became of one attempt, as a value: decided purely, carried out once by the settlement."""

from dataclasses import dataclass, field, replace
from typing import Any

from commandbus.errors import BusinessRuleError, PermanentCommandError, TransientCommandError
from commandbus.models import CommandStatus, ReplyOutcome
from commandbus.payload import sanitise, sanitise_text
from commandbus.policies import RetryPolicy

TIMEOUT = "TIMEOUT"
HANDLER_NOT_FOUND = "HANDLER_NOT_FOUND"
UNHANDLED_EXCEPTION = "UNHANDLED_EXCEPTION"
INVALID_RESULT = "INVALID_RESULT"
SETTLE_FAILED = "SETTLE_FAILED"
_COMPLETED, _SUCCESS = CommandStatus.COMPLETED, ReplyOutcome.SUCCESS  # before Python 3.12 a member is found slowly
EFFECT_UNKNOWN = frozenset({INVALID_RESULT, SETTLE_FAILED})  # the handler returned, so that it has done something


@dataclass(slots=True)
class Outcome:
    """One attempt's end. `failures` are those recorded in this life, this one included; `delay` is in seconds."""

    event: str
    failures: int
    attempts: int
    status: CommandStatus | None = None
    reply: ReplyOutcome | None = None
    result: str | None = None
    value: dict[str, Any] | None = None
    error_code: str | None = None
    error_message: str | None = None
    delay: float | None = None
    details: dict[str, Any] = field(default_factory=dict)
    error: BaseException | None = field(default=None, compare=False, repr=False)  # that nobody announced


def completed(result: object, failures: int, details: dict[str, Any], *, event: str = "COMPLETED") -> Outcome:
    """The handler returned: COMPLETED, unless it returned something that is no dict."""
    if result is not None and not isinstance(result, dict):
        message = f"the handler returned a {type(result).__name__}; return a dict or None"
        return _park(PermanentCommandError(INVALID_RESULT, message), failures, details)
    safe = sanitise(result)
    details = _whole(details)
    if safe.changed:
        details["result_sanitised"] = True
    text, value = (None, None) if result is None else (safe.json, safe.value)
    return Outcome(event, failures, failures + 1, _COMPLETED, _SUCCESS, text, value, details=details)


def failed(
    error: BaseException, failures: int, max_attempts: int, policy: RetryPolicy, details: dict[str, Any]
) -> Outcome:
    """The handler raised: refused by a business rule, parked, retried while attempts are left, or out of them."""
    if isinstance(error, BusinessRuleError):
        return Outcome(
            event="BUSINESS_RULE_FAILED",
            failures=failures,
            attempts=failures + 1,
            status=CommandStatus.FAILED,
            reply=ReplyOutcome.FAILED,
            **_failure(error, details),
        )
    if isinstance(error, PermanentCommandError):
        return _park(error, failures, details)
    if policy.is_exhausted(failures + 1, max_attempts):
        return _give_up(error, failures, details) if policy.on_exhausted == "fail" else _park(error, failures, details)
    return Outcome(
        event="RETRY_SCHEDULED",
        failures=failures + 1,
        attempts=failures + 1,
        delay=policy.delay(failures + 1),
        **_failure(error, details),
    )


def canceled(outcome: Outcome, lost_leases: int, message: str, who: dict[str, str]) -> Outcome:
    """The outcome of a command whose process was cancelled while it was in flight; `who` goes into the details.

    A success, what a business rule refused and what FAILED by its last attempt stay what they are. Any other failure
    becomes CANCELED: no retry, no troubleshooting queue. But an attempt that may have had an effect is parked, for an
    operator to say whether it had.
    """
    if outcome.reply is not None:
        return outcome
    is_unhandled = outcome.details.get("code") == HANDLER_NOT_FOUND
    if outcome.error_code in EFFECT_UNKNOWN or (is_unhandled and lost_leases > 0):
        return _held(outcome)
    return Outcome(
        event="CANCELED",
        failures=outcome.failures,
        attempts=outcome.attempts,
        status=CommandStatus.CANCELED,
        reply=ReplyOutcome.CANCELED,
        error_code="CANCELED",
        error_message=message,
        details={**_whole(outcome.details), **who},
    )


def _held(outcome: Outcome) -> Outcome:
    """The same, parked."""
    if outcome.delay is None:
        return outcome
    code, message = outcome.details["code"], outcome.details["message"]
    return replace(
        outcome,
        event="MOVED_TO_TSQ",
        status=CommandStatus.IN_TROUBLESHOOTING_QUEUE,
        error_code=code,
        error_message=message,
        delay=None,
    )


def handler_not_found(command_type: str, failures: int, *, live_elsewhere: bool, delay: float) -> Outcome:
    """No handler here: given back with a delay while a live worker has one, else parked. No attempt is counted."""
    message = f"no handler for {command_type!r} here, "
    if live_elsewhere:
        details = {"code": HANDLER_NOT_FOUND, "message": message + "but a live worker has one"}
        return Outcome(event="RELEASED", failures=failures, attempts=failures, delay=delay, details=details)
    error = PermanentCommandError(HANDLER_NOT_FOUND, message + "and no live worker has one: deploy it, then retry")
    outcome = _park(error, failures, {})
    outcome.failures = outcome.attempts = failures
    return outcome


def _park(error: BaseException, failures: int, details: dict[str, Any]) -> Outcome:
    return Outcome(
        event="MOVED_TO_TSQ",
        failures=failures + 1,
        attempts=failures + 1,
        status=CommandStatus.IN_TROUBLESHOOTING_QUEUE,
        **_failure(error, details),
    )


def _give_up(error: BaseException, failures: int, details: dict[str, Any]) -> Outcome:
    return Outcome(
        event="ATTEMPTS_EXHAUSTED",
        failures=failures + 1,
        attempts=failures + 1,
        status=CommandStatus.FAILED,
        reply=ReplyOutcome.FAILED,
        **_failure(error, details),
    )


def _failure(error: BaseException, details: dict[str, Any]) -> dict[str, Any]:
    """Spell a failure for the command's row and for the event's details."""
    unexpected = None
    if isinstance(error, TransientCommandError | PermanentCommandError | BusinessRuleError):
        # a subclass may have forgotten super().__init__
        code = sanitise_text(getattr(error, "code", type(error).__name__), limit=200)
        message = sanitise_text(getattr(error, "message", error), limit=10_000)
        if (data := sanitise(getattr(error, "details", None), limit=65_536).value) not in (None, {}):
            details = {**_whole(details), "data": data}
    else:
        code, unexpected = UNHANDLED_EXCEPTION, error
        message = sanitise_text(f"{type(error).__name__}: {sanitise_text(error)}", limit=10_000)
    details = {**_whole(details), "code": code, "message": message, "type": type(error).__name__}
    return {"error_code": code, "error_message": message, "details": details, "error": unexpected}


def _whole(details: object) -> dict[str, Any]:
    """What a handler left in ctx.details, also when it put something else in the place of the dict."""
    return details if isinstance(details, dict) else {"details": details}
