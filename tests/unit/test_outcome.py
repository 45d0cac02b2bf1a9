"""From what a handler did to an outcome that can always be stored."""

import json
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commandbus import (
    BusinessRuleError,
    CommandStatus,
    PermanentCommandError,
    ReplyOutcome,
    RetryPolicy,
    TransientCommandError,
)
from commandbus.errors import InvalidPayloadError
from commandbus.outcome import Outcome, completed, failed, handler_not_found
from commandbus.payload import dump_payload, sanitise
from tests.json_values import any_texts, anything

POLICY = RetryPolicy(max_attempts=3, backoff_schedule=[10, 60, 300])
PARKED = CommandStatus.IN_TROUBLESHOOTING_QUEUE
failure_types = st.sampled_from([TransientCommandError, PermanentCommandError, BusinessRuleError])


class Unspeakable(Exception):
    """An exception whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class Forgetful(BusinessRuleError):
    """An error of a user who forgot super().__init__."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __str__(self) -> str:
        return f"forgot {self.what}"


def assert_storable(outcome: Outcome) -> None:
    """Hold an outcome against what PostgreSQL takes as JSON and as text."""
    details = sanitise(outcome.details).json  # what the settlement stores
    for text in (details, outcome.result):
        if text is not None:
            dump_payload(json.loads(text))
    for words in (outcome.error_code, outcome.error_message):
        if words is not None:
            assert "\0" not in words
            words.encode()


def is_valid(result: Any) -> bool:
    """Whether send would take it as it is."""
    try:
        dump_payload(result)
    except InvalidPayloadError:
        return False
    return True


@given(st.dictionaries(any_texts, anything, max_size=5) | st.none(), st.integers(0, 5))
def test_any_dict_completes_and_is_storable(result: Any, failures: int) -> None:
    outcome = completed(result, failures, {})
    assert (outcome.event, outcome.status) == ("COMPLETED", CommandStatus.COMPLETED)
    assert outcome.reply is ReplyOutcome.SUCCESS
    assert (outcome.failures, outcome.attempts) == (failures, failures + 1)
    assert_storable(outcome)
    if result is None:
        assert (outcome.result, outcome.value) == (None, None)
    else:
        assert json.loads(outcome.result or "") == outcome.value
        flagged = "result_sanitised" in outcome.details
        assert flagged or is_valid(result)
        assert flagged or outcome.result == dump_payload(result)


@given(anything.filter(lambda value: value is not None and not isinstance(value, dict)))
def test_a_result_that_is_no_dict_is_parked(result: Any) -> None:
    outcome = completed(result, 0, {"kept": 1})
    assert (outcome.event, outcome.status, outcome.reply) == ("MOVED_TO_TSQ", PARKED, None)
    assert (outcome.error_code, outcome.failures, outcome.attempts) == ("INVALID_RESULT", 1, 1)
    assert type(result).__name__ in (outcome.error_message or "")
    assert outcome.details["kept"] == 1
    assert_storable(outcome)


@given(failure_types, anything, anything, anything, st.integers(0, 5), st.integers(1, 6))
def test_any_failure_is_recorded_whatever_its_texts_hold(
    kind: type[Any], code: Any, message: Any, data: Any, failures: int, max_attempts: int
) -> None:
    error = kind.__new__(kind)
    error.code, error.message, error.details = code, message, data
    outcome = failed(error, failures, max_attempts, POLICY, {"before": True})
    assert_storable(outcome)
    assert outcome.details["type"] == kind.__name__
    assert outcome.details["before"] is True
    assert (outcome.details["code"], outcome.details["message"]) == (outcome.error_code, outcome.error_message)


@given(any_texts)
def test_an_unexpected_exception_tells_its_type_and_text(text: str) -> None:
    outcome = failed(KeyError(text), 0, 3, POLICY, {})
    assert outcome.error_code == "UNHANDLED_EXCEPTION"
    assert (outcome.error_message or "").startswith("KeyError: ")
    assert_storable(outcome)


@pytest.mark.parametrize("error", [Unspeakable(), SystemExit(3), Forgetful("it"), ExceptionGroup("g", [ValueError()])])
def test_odd_exceptions_have_an_outcome(error: BaseException) -> None:
    outcome = failed(error, 0, 3, POLICY, {})
    assert type(error).__name__ in (outcome.error_message or "") + (outcome.error_code or "")
    assert_storable(outcome)


def test_an_error_whose_class_forgot_its_code_is_still_the_business_saying_no() -> None:
    outcome = failed(Forgetful("the stock"), 0, 3, POLICY, {})
    assert (outcome.status, outcome.error_code, outcome.error_message) == (
        CommandStatus.FAILED,
        "Forgetful",
        "forgot the stock",
    )


@pytest.mark.parametrize("details", [None, "text", 7, ["list"]])
def test_details_that_a_handler_replaced_do_not_hide_its_outcome(details: Any) -> None:
    for outcome in (
        completed({"ok": 1}, 0, details),
        completed({"ok": float("nan")}, 0, details),
        failed(ValueError("x"), 0, 3, POLICY, details),
        failed(BusinessRuleError("NO", details={"a": 1}), 0, 3, POLICY, details),
    ):
        assert outcome.details["details"] == details
        assert_storable(outcome)


def test_a_result_in_a_subclass_of_dict_is_looked_at_like_any_other() -> None:
    outcome = completed(OrderedDict(price=float("nan")), 0, {})
    assert outcome.value == {"price": "<NaN>"}
    assert outcome.details == {"result_sanitised": True}


@given(st.integers(0, 10), st.integers(1, 10))
def test_a_transient_failure_is_retried_until_its_attempts_are_used_up(failures: int, max_attempts: int) -> None:
    outcome = failed(TransientCommandError("BUSY", "later"), failures, max_attempts, POLICY, {})
    assert outcome.failures == outcome.attempts == failures + 1
    assert outcome.reply is None
    if failures + 1 < max_attempts:
        assert (outcome.event, outcome.status) == ("RETRY_SCHEDULED", None)
        assert outcome.delay == POLICY.delay(failures + 1)
    else:
        assert (outcome.event, outcome.status, outcome.delay) == ("MOVED_TO_TSQ", PARKED, None)


@given(failures=st.integers(0, 10), max_attempts=st.integers(1, 5), error=failure_types)
def test_a_policy_that_fails_instead_of_parking_does_so_for_the_last_attempt_alone(
    failures: int, max_attempts: int, error: type[Exception]
) -> None:
    parking, failing = (RetryPolicy(on_exhausted=what) for what in ("park", "fail"))
    park, fail = (failed(error("BUSY", "no"), failures, max_attempts, p, {}) for p in (parking, failing))
    if error is not TransientCommandError or failures + 1 < max_attempts:
        assert fail == park
        return
    assert (park.event, park.status, park.reply) == ("MOVED_TO_TSQ", PARKED, None)
    assert (fail.event, fail.status, fail.reply) == ("ATTEMPTS_EXHAUSTED", CommandStatus.FAILED, ReplyOutcome.FAILED)
    for outcome in (park, fail):
        assert (outcome.failures, outcome.attempts, outcome.delay) == (failures + 1, failures + 1, None)
        assert (outcome.error_code, outcome.error_message) == ("BUSY", "no")


def test_a_permanent_failure_is_parked_with_attempts_left() -> None:
    outcome = failed(PermanentCommandError("GONE", "no such order", {"order": 7}), 0, 3, POLICY, {})
    assert (outcome.event, outcome.status, outcome.failures) == ("MOVED_TO_TSQ", PARKED, 1)
    assert outcome.details == {
        "code": "GONE",
        "message": "no such order",
        "type": "PermanentCommandError",
        "data": {"order": 7},
    }


def test_a_business_rule_fails_at_once_and_counts_no_failure() -> None:
    outcome = failed(BusinessRuleError("NO_STOCK", "sold out"), 1, 3, POLICY, {})
    assert (outcome.event, outcome.status, outcome.reply) == (
        "BUSINESS_RULE_FAILED",
        CommandStatus.FAILED,
        ReplyOutcome.FAILED,
    )
    assert (outcome.failures, outcome.attempts, outcome.delay) == (1, 2, None)
    assert (outcome.error_code, outcome.error_message) == ("NO_STOCK", "sold out")


def test_a_missing_handler_counts_no_attempt() -> None:
    back = handler_not_found("Reserve", 2, live_elsewhere=True, delay=5)
    assert (back.event, back.status, back.delay, back.failures, back.attempts) == ("RELEASED", None, 5, 2, 2)
    parked = handler_not_found("Reserve", 2, live_elsewhere=False, delay=5)
    assert (parked.event, parked.status, parked.delay) == ("MOVED_TO_TSQ", PARKED, None)
    assert (parked.failures, parked.attempts, parked.error_code) == (2, 2, "HANDLER_NOT_FOUND")
    assert "deploy it, then retry" in (parked.error_message or "")
