"""What becomes of a command when its handler returns or raises."""

import asyncio

import pytest

from commandbus import (
    BusinessRuleError,
    Command,
    CommandStatus,
    HandlerContext,
    PermanentCommandError,
    RetryPolicy,
    TransientCommandError,
)
from tests.integration.worker_kit import Bench

pytestmark = pytest.mark.asyncio

PARKED = CommandStatus.IN_TROUBLESHOOTING_QUEUE


async def test_a_result_completes_the_command(bench: Bench) -> None:
    @bench.handler("Add")
    async def add(command: Command, context: HandlerContext) -> dict[str, int]:
        return {"sum": command.data["a"] + command.data["b"]}

    @bench.handler("AddInThread")
    def add_in_thread(command: Command, context: HandlerContext) -> dict[str, int]:
        return {"sum": command.data["a"] + command.data["b"]}

    @bench.handler("Nothing")
    async def nothing(command: Command, context: HandlerContext) -> None:
        return None

    async with bench.worker():
        for command_type, result in {"Add": {"sum": 5}, "AddInThread": {"sum": 5}, "Nothing": None}.items():
            command = await bench.until(await bench.send(command_type, {"a": 2, "b": 3}))
            assert (command.result, command.attempts, command.worker_id) == (result, 1, None)
            assert await bench.trail(command.command_id) == ["SENT", "RECEIVED", "COMPLETED"]


async def test_a_transient_failure_waits_for_the_backoff_and_is_parked_in_the_end(bench: Bench) -> None:
    @bench.handler("Flaky")
    async def flaky(command: Command, context: HandlerContext) -> None:
        raise TransientCommandError("NO_LINE", f"attempt {context.attempt}", {"line": 7})

    policy = RetryPolicy(max_attempts=3, backoff_schedule=[10, 60])
    async with bench.worker(retry_policy=policy):
        command_id = await bench.send("Flaky")
        for attempt, backoff in ((1, 10), (2, 60)):
            failure = await bench.until_event(command_id, "RETRY_SCHEDULED", attempt)
            waiting = await bench.bus.get_command(command_id)
            assert waiting.status is CommandStatus.PENDING
            assert waiting.due_at is not None
            assert (waiting.due_at - failure.timestamp).total_seconds() == backoff
            assert (waiting.attempts, waiting.error_code) == (attempt, "NO_LINE")
            assert failure.details["message"] == f"attempt {attempt}"
            assert (failure.details["data"], failure.details["delay"]) == ({"line": 7}, backoff)
            await bench.skip(backoff)
        parked = await bench.until(command_id, PARKED)
    assert (parked.attempts, parked.error_code, parked.error_message) == (3, "NO_LINE", "attempt 3")
    assert await bench.trail(command_id) == ["SENT", *["RECEIVED", "RETRY_SCHEDULED"] * 2, "RECEIVED", "MOVED_TO_TSQ"]


async def test_a_retry_is_not_due_before_its_backoff(bench: Bench) -> None:
    @bench.handler("Flaky")
    async def flaky(command: Command, context: HandlerContext) -> None:
        if context.attempt == 1:
            raise TransientCommandError("NO_LINE")

    @bench.handler("Other")
    async def other(command: Command, context: HandlerContext) -> None: ...

    async with bench.worker(retry_policy=RetryPolicy(backoff_schedule=[100])):
        command_id = await bench.send("Flaky")
        await bench.until_event(command_id, "RETRY_SCHEDULED")
        await bench.skip(98)
        await bench.until(await bench.send("Other"))  # so a claim has looked since
        assert await bench.trail(command_id) == ["SENT", "RECEIVED", "RETRY_SCHEDULED"]
        await bench.skip(2)
        assert (await bench.until(command_id)).attempts == 2


async def test_a_command_s_own_max_attempts_come_before_the_policy_s(bench: Bench) -> None:
    @bench.handler("Flaky")
    async def flaky(command: Command, context: HandlerContext) -> None:
        raise TransientCommandError("NO_LINE")

    async with bench.worker():
        command_id = await bench.send("Flaky", max_attempts=1)
        parked = await bench.until(command_id, PARKED)
    assert (parked.attempts, parked.max_attempts) == (1, 1)
    assert [e.max_attempts for e in await bench.bus.get_audit_trail(command_id)][1] == 1


async def test_the_first_claim_stores_its_worker_s_max_attempts(bench: Bench) -> None:
    @bench.handler("Flaky")
    async def flaky(command: Command, context: HandlerContext) -> None:
        raise TransientCommandError("NO_LINE")

    command_id = await bench.send("Flaky")
    assert (await bench.bus.get_command(command_id)).max_attempts is None
    async with bench.worker(retry_policy=RetryPolicy(max_attempts=2, backoff_schedule=[100])):
        await bench.until_event(command_id, "RETRY_SCHEDULED")
    await bench.skip(100)
    async with bench.worker(retry_policy=RetryPolicy(max_attempts=9, backoff_schedule=[0])):
        assert (await bench.until(command_id, PARKED)).attempts == 2
    received = [e.max_attempts for e in await bench.bus.get_audit_trail(command_id) if e.event_type == "RECEIVED"]
    assert received == [2, 2]


async def test_a_policy_may_fail_what_is_out_of_attempts(bench: Bench) -> None:
    @bench.handler("Flaky")
    async def flaky(command: Command, context: HandlerContext) -> None:
        raise TransientCommandError("NO_LINE", f"attempt {context.attempt}")

    async with bench.worker(retry_policy=RetryPolicy(max_attempts=2, backoff_schedule=[0], on_exhausted="fail")):
        failed = await bench.until(await bench.send("Flaky", reply_to="caller"), CommandStatus.FAILED)
    assert (failed.attempts, failed.error_code, failed.error_message) == (2, "NO_LINE", "attempt 2")
    assert await bench.trail(failed.command_id) == [
        "SENT",
        "RECEIVED",
        "RETRY_SCHEDULED",
        "RECEIVED",
        "ATTEMPTS_EXHAUSTED",
    ]
    replies = await bench.execute(
        "SELECT outcome, error_code FROM commandbus.reply WHERE command_id = %s", failed.command_id
    )
    assert replies == [("FAILED", "NO_LINE")]
    assert await bench.execute(
        "SELECT status FROM commandbus.uncompleted WHERE command_id = %s", failed.command_id
    ) == [("FAILED",)]


async def test_a_permanent_failure_is_parked_at_once(bench: Bench) -> None:
    @bench.handler("Broken")
    async def broken(command: Command, context: HandlerContext) -> None:
        raise PermanentCommandError("NO_SUCH_ACCOUNT", "account 7 is gone")

    async with bench.worker():
        parked = await bench.until(await bench.send("Broken"), PARKED)
    assert (parked.attempts, parked.error_code, parked.error_message) == (1, "NO_SUCH_ACCOUNT", "account 7 is gone")
    assert await bench.trail(parked.command_id) == ["SENT", "RECEIVED", "MOVED_TO_TSQ"]


async def test_a_business_rule_ends_the_command_and_replies(bench: Bench) -> None:
    @bench.handler("Withdraw")
    async def withdraw(command: Command, context: HandlerContext) -> None:
        raise BusinessRuleError("NO_FUNDS", "the account is empty")

    async with bench.worker():
        refused = await bench.until(await bench.send("Withdraw", reply_to="cashier"), CommandStatus.FAILED)
    assert (refused.attempts, refused.error_code, refused.error_message) == (1, "NO_FUNDS", "the account is empty")
    assert refused.completed_at is not None
    assert await bench.trail(refused.command_id) == ["SENT", "RECEIVED", "BUSINESS_RULE_FAILED"]
    replies = await bench.execute(
        "SELECT reply_to, outcome, error_code FROM commandbus.reply WHERE command_id = %s", refused.command_id
    )
    assert replies == [("cashier", "FAILED", "NO_FUNDS")]


HOSTILE = "nul \0, half a pair \ud800, quote ' \", \\u0000, $$; DROP SCHEMA commandbus; -- " + "x" * 100_000


@pytest.mark.parametrize(
    "error",
    [ValueError(HOSTILE), SystemExit(HOSTILE), RecursionError(HOSTILE)],
    ids=["ValueError", "SystemExit", "RecursionError"],
)
async def test_an_unexpected_exception_is_a_transient_failure_whatever_its_text(
    bench: Bench, error: BaseException
) -> None:
    @bench.handler("Hostile")
    async def hostile(command: Command, context: HandlerContext) -> None:
        context.details["note"] = HOSTILE
        raise error

    @bench.handler("HostileInThread")
    def hostile_in_thread(command: Command, context: HandlerContext) -> None:
        raise error

    async with bench.worker(retry_policy=RetryPolicy(max_attempts=2, backoff_schedule=[0])):
        for command_type in ("Hostile", "HostileInThread"):
            parked = await bench.until(await bench.send(command_type), PARKED)
            assert parked.error_code == "UNHANDLED_EXCEPTION"
            assert parked.error_message is not None
            assert parked.error_message.startswith(f"{type(error).__name__}: nul ")
            assert "DROP SCHEMA" in parked.error_message
            assert len(parked.error_message) < 11_000
            trail = await bench.trail(parked.command_id)
            assert trail == ["SENT", "RECEIVED", "RETRY_SCHEDULED", "RECEIVED", "MOVED_TO_TSQ"]


async def test_an_error_whose_str_fails_is_a_failure_too(bench: Bench) -> None:
    class Unspeakable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    @bench.handler("Unspeakable")
    async def unspeakable(command: Command, context: HandlerContext) -> None:
        raise Unspeakable

    async with bench.worker():
        parked = await bench.until(await bench.send("Unspeakable"), PARKED)
    assert parked.error_message is not None
    assert parked.error_message.startswith("Unspeakable")


async def test_a_result_that_is_no_dict_is_parked(bench: Bench) -> None:
    @bench.handler("List")
    async def returns_list(command: Command, context: HandlerContext) -> list[int]:
        return [1]

    async with bench.worker():
        parked = await bench.until(await bench.send("List"), PARKED)
    assert (parked.error_code, parked.attempts) == ("INVALID_RESULT", 1)


async def test_a_handler_that_cancels_itself_has_failed(bench: Bench) -> None:
    @bench.handler("SelfCancel")
    async def self_cancel(command: Command, context: HandlerContext) -> None:
        raise asyncio.CancelledError

    @bench.handler("Fine")
    async def fine(command: Command, context: HandlerContext) -> None:
        async with asyncio.timeout(5):
            await asyncio.sleep(0)

    async with bench.worker(concurrency=1):
        parked = await bench.until(await bench.send("SelfCancel"), PARKED)
        assert parked.error_code == "CANCELLED"
        await bench.until(await bench.send("Fine"))


async def test_what_a_handler_puts_into_details_is_in_the_audit_trail(bench: Bench) -> None:
    @bench.handler("Detailed")
    async def detailed(command: Command, context: HandlerContext) -> None:
        context.details["seen"] = context.attempt
        if context.attempt == 1:
            raise TransientCommandError("AGAIN")

    async with bench.worker():
        command_id = await bench.send("Detailed")
        await bench.until(command_id)
    retried, completed = (e for e in await bench.bus.get_audit_trail(command_id) if e.details)
    assert (retried.details["seen"], retried.details["code"]) == (1, "AGAIN")
    assert completed.details == {"seen": 2}


async def test_a_command_that_no_live_worker_handles_is_parked(bench: Bench) -> None:
    @bench.handler("Known")
    async def known(command: Command, context: HandlerContext) -> None: ...

    async with bench.worker():
        parked = await bench.until(await bench.send("Unknown"), PARKED)
    assert (parked.error_code, parked.attempts) == ("HANDLER_NOT_FOUND", 0)
    assert "Unknown" in (parked.error_message or "")
