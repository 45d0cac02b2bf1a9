"""A handler's own writes and the completion of its command commit together, or not at all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
import pytest_asyncio

from commandbus import (
    Command,
    CommandStatus,
    HandlerContext,
    InvalidOperationError,
    LeaseLostError,
    RetryPolicy,
    TransientCommandError,
)
from tests.integration.worker_kit import Bench

pytestmark = pytest.mark.asyncio

PARKED = CommandStatus.IN_TROUBLESHOOTING_QUEUE
LEASE = 30.0
DEBIT = "INSERT INTO public.debit (command_id, epoch) VALUES (%s, %s)"


@pytest_asyncio.fixture(autouse=True)
async def _table(bench: Bench) -> AsyncIterator[None]:
    await bench.execute("CREATE TABLE IF NOT EXISTS public.debit (command_id uuid, epoch integer)")
    yield


async def debit(context: HandlerContext, conn: psycopg.AsyncConnection[Any]) -> None:
    await conn.execute(DEBIT, (context.command.command_id, context.epoch))


async def debits(bench: Bench, command_id: Any) -> list[int]:
    """The epochs under which a command's debit was committed."""
    return [e for (e,) in await bench.execute("SELECT epoch FROM public.debit WHERE command_id = %s", command_id)]


async def test_both_commit_and_what_is_returned_is_ignored(bench: Bench) -> None:
    @bench.handler("Debit")
    async def handle(command: Command, context: HandlerContext) -> dict[str, bool]:
        context.details["who"] = "me"
        async with context.transaction() as conn:
            await debit(context, conn)
            await context.complete({"done": True})
        return {"ignored": True}

    async with bench.worker() as worker:
        done = await bench.until(await bench.send("Debit", reply_to="me"))
    assert done.result == {"done": True}
    assert await debits(bench, done.command_id) == [1]
    trail = await bench.bus.get_audit_trail(done.command_id)
    assert [e.event_type for e in trail] == ["SENT", "RECEIVED", "COMPLETED"]
    assert (trail[2].worker_id, trail[2].details) == (worker.worker_id, {"who": "me"})
    replies = await bench.execute("SELECT outcome FROM commandbus.reply WHERE command_id = %s", done.command_id)
    assert replies == [("SUCCESS",)]


async def test_an_error_after_the_completion_rolls_both_back(bench: Bench) -> None:
    @bench.handler("Debit")
    async def handle(command: Command, context: HandlerContext) -> None:
        async with context.transaction() as conn:
            await debit(context, conn)
            await context.complete()
            if context.attempt == 1:
                raise TransientCommandError("LATE")

    async with bench.worker():
        done = await bench.until(await bench.send("Debit"))
    assert await debits(bench, done.command_id) == [2]
    assert await bench.trail(done.command_id) == ["SENT", "RECEIVED", "RETRY_SCHEDULED", "RECEIVED", "COMPLETED"]


async def test_a_commit_that_fails_completes_nothing(bench: Bench) -> None:
    await bench.execute("CREATE TABLE IF NOT EXISTS public.once (n integer UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    @bench.handler("Debit")
    async def handle(command: Command, context: HandlerContext) -> None:
        async with context.transaction() as conn:
            await conn.execute("INSERT INTO public.once VALUES (1), (1)")  # refused at COMMIT
            await context.complete()

    async with bench.worker(retry_policy=RetryPolicy(max_attempts=1)):
        parked = await bench.until(await bench.send("Debit"), PARKED)
    assert "UniqueViolation" in (parked.error_message or "")
    assert await bench.trail(parked.command_id) == ["SENT", "RECEIVED", "MOVED_TO_TSQ"]


async def test_what_is_raised_after_the_commit_changes_nothing(bench: Bench) -> None:
    @bench.handler("Debit")
    async def handle(command: Command, context: HandlerContext) -> None:
        async with context.transaction() as conn:
            await debit(context, conn)
            await context.complete()
        raise ValueError("too late")

    async with bench.worker():
        done = await bench.until(await bench.send("Debit"))
    assert await bench.trail(done.command_id) == ["SENT", "RECEIVED", "COMPLETED"]


async def test_without_complete_the_writes_commit_and_the_return_value_counts(bench: Bench) -> None:
    @bench.handler("Debit")
    async def handle(command: Command, context: HandlerContext) -> dict[str, int]:
        async with context.transaction() as conn:
            await debit(context, conn)
        return {"n": 1}

    async with bench.worker():
        done = await bench.until(await bench.send("Debit"))
    assert done.result == {"n": 1}
    assert await debits(bench, done.command_id) == [1]


@pytest.mark.parametrize("swallow", [False, True])
async def test_a_handler_that_lost_its_lease_commits_nothing(bench: Bench, swallow: bool) -> None:
    waiting, go_on, zombie_ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    errors: list[Exception] = []

    @bench.handler("Debit")
    async def handle(command: Command, context: HandlerContext) -> dict[str, str]:
        try:
            async with context.transaction() as conn:
                await debit(context, conn)
                if context.epoch == 1:
                    waiting.set()
                    await go_on.wait()
                with contextlib.suppress(LeaseLostError) if swallow else contextlib.nullcontext():
                    await context.complete({"epoch": context.epoch})
        except LeaseLostError as error:
            errors.append(error)
            raise
        finally:
            if context.epoch == 1:
                zombie_ended.set()
        return {}

    async with bench.worker(concurrency=2):
        command_id = await bench.send("Debit")
        await waiting.wait()
        await bench.skip(LEASE)
        done = await bench.until(command_id)
        go_on.set()
        await zombie_ended.wait()
        await bench.until_event(command_id, "LATE_OUTCOME_DROPPED")
    assert len(errors) == 1
    assert done.result == {"epoch": 2}
    assert await debits(bench, command_id) == [2]
    assert (await bench.trail(command_id)).count("COMPLETED") == 1


async def test_a_claim_that_comes_while_the_transaction_is_open_waits_for_nothing(bench: Bench) -> None:
    """The completion holds the queue row: another worker skips it, and finds nothing once it is committed."""
    completed, go_on = asyncio.Event(), asyncio.Event()

    @bench.handler("Debit")
    async def handle(command: Command, context: HandlerContext) -> None:
        async with context.transaction() as conn:
            await debit(context, conn)
            await context.complete()
            completed.set()
            await go_on.wait()

    @bench.handler("Other")
    async def other(command: Command, context: HandlerContext) -> None: ...

    async with bench.worker(concurrency=2):
        command_id = await bench.send("Debit")
        await completed.wait()
        await bench.skip(LEASE)
        await bench.until(await bench.send("Other"))  # a claim went past it
        go_on.set()
        await bench.until(command_id)
    assert await bench.trail(command_id) == ["SENT", "RECEIVED", "COMPLETED"]
    assert await debits(bench, command_id) == [1]


async def test_a_handler_cancelled_amid_its_transaction_commits_nothing(bench: Bench) -> None:
    @bench.handler("Debit")
    async def handle(command: Command, context: HandlerContext) -> None:
        async with context.transaction() as conn:
            await debit(context, conn)
            await context.complete()
            await asyncio.Event().wait()

    async with bench.worker(visibility_timeout=2, retry_policy=RetryPolicy(max_attempts=1)):
        parked = await bench.until(await bench.send("Debit"), PARKED)
    assert parked.error_code == "TIMEOUT"
    assert await debits(bench, parked.command_id) == []


async def test_misuse_is_told(bench: Bench) -> None:
    @bench.handler("Outside")
    async def outside(command: Command, context: HandlerContext) -> None:
        with pytest.raises(InvalidOperationError, match="inside `async with ctx"):
            await context.complete()

    @bench.handler("Twice")
    async def twice(command: Command, context: HandlerContext) -> None:
        async with context.transaction():
            await context.complete({"n": 1})
            with pytest.raises(InvalidOperationError, match="already completed"):
                await context.complete({"n": 2})

    @bench.handler("Nested")
    async def nested(command: Command, context: HandlerContext) -> None:
        async with context.transaction():
            with pytest.raises(InvalidOperationError, match="one at a time"):
                async with context.transaction():
                    pass

    @bench.handler("Again")
    async def again(command: Command, context: HandlerContext) -> None:
        async with context.transaction():
            await context.complete({"n": 1})
        async with context.transaction():
            with pytest.raises(InvalidOperationError, match="already completed"):
                await context.complete({"n": 2})

    async with bench.worker():
        for command_type in ("Outside", "Twice", "Nested", "Again"):
            done = await bench.until(await bench.send(command_type))
            assert await bench.trail(done.command_id) == ["SENT", "RECEIVED", "COMPLETED"]


async def test_a_second_transaction_after_one_that_was_rolled_back_may_complete(bench: Bench) -> None:
    @bench.handler("Again")
    async def again(command: Command, context: HandlerContext) -> dict[str, int]:
        with contextlib.suppress(ZeroDivisionError):
            async with context.transaction() as conn:
                await debit(context, conn)
                await context.complete({"n": 1})
                raise ZeroDivisionError
        async with context.transaction():
            await context.complete({"n": 2})
        return {"n": 3}

    @bench.handler("Write")
    async def write(command: Command, context: HandlerContext) -> dict[str, int]:
        with contextlib.suppress(ZeroDivisionError):
            async with context.transaction():
                await context.complete({"n": 1})
                raise ZeroDivisionError
        async with context.transaction() as conn:
            await conn.execute("SELECT 1")
        return {"n": 3}

    @bench.handler("Return")
    async def gives_back(command: Command, context: HandlerContext) -> dict[str, int]:
        with contextlib.suppress(ZeroDivisionError):
            async with context.transaction() as conn:
                await debit(context, conn)
                await context.complete({"n": 1})
                raise ZeroDivisionError
        return {"n": 3}

    async with bench.worker():
        for command_type, result in (("Again", {"n": 2}), ("Write", {"n": 3}), ("Return", {"n": 3})):
            done = await bench.until(await bench.send(command_type))
            assert done.result == result
            assert await debits(bench, done.command_id) == []


async def test_a_completion_that_a_savepoint_took_back_is_none(bench: Bench) -> None:
    @bench.handler("Debit")
    async def handle(command: Command, context: HandlerContext) -> dict[str, int]:
        async with context.transaction() as conn:
            with contextlib.suppress(ZeroDivisionError):
                async with conn.transaction():
                    await context.complete({"n": 1})
                    raise ZeroDivisionError
            await debit(context, conn)
        return {"n": 2}

    async with bench.worker():
        done = await bench.until(await bench.send("Debit"))
    assert done.result == {"n": 2}
    assert await debits(bench, done.command_id) == [1]
    assert await bench.trail(done.command_id) == ["SENT", "RECEIVED", "COMPLETED"]
