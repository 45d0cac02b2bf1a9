"""Middleware: prepared once for a claimed batch, wrapped around each handler."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest

from commandbus import Command, CommandStatus, Ended, HandlerContext, Middleware, TransientCommandError
from tests.integration.worker_kit import NEVER, Bench, eventually

pytestmark = pytest.mark.asyncio

Result = dict[str, Any] | None


class Notes(Middleware):
    """Writes down what it is called for."""

    def __init__(self, name: str, lines: list[str]) -> None:
        self.name = name
        self.lines = lines
        self.prepared: list[set[UUID]] = []

    async def claimed(self, batch: Sequence[HandlerContext]) -> None:
        self.lines.append(f"{self.name} claimed {len(batch)}")
        self.prepared.append({context.command.command_id for context in batch})

    async def handle(self, context: HandlerContext, call_next: Callable[[], Awaitable[Result]]) -> Result:
        self.lines.append(f"{self.name} before")
        try:
            return await call_next()
        finally:
            self.lines.append(f"{self.name} after")


async def test_each_layer_is_prepared_and_wraps_the_next(bench: Bench) -> None:
    lines: list[str] = []

    @bench.handler("Ping")
    async def ping(command: Command, context: HandlerContext) -> None:
        lines.append("handler")

    outer, inner = Notes("outer", lines), Notes("inner", lines)
    command_id = await bench.send("Ping")
    async with bench.worker(middleware=[outer, inner]):
        await bench.until(command_id)
    assert lines == [
        "outer claimed 1",
        "inner claimed 1",
        "outer before",
        "inner before",
        "handler",
        "inner after",
        "outer after",
    ]
    assert outer.prepared == inner.prepared == [{command_id}]


async def test_a_batch_is_prepared_before_any_of_it_is_handled(bench: Bench) -> None:
    lines: list[str] = []

    @bench.handler("Ping")
    async def ping(command: Command, context: HandlerContext) -> None:
        assert any(command.command_id in batch for batch in notes.prepared)

    notes = Notes("notes", lines)
    ids = [await bench.send("Ping") for _ in range(8)]
    async with bench.worker(middleware=[notes], concurrency=8):
        for command_id in ids:
            await bench.until(command_id)
    assert notes.prepared == [set(ids)]
    assert lines[0] == "notes claimed 8"


async def test_a_layer_may_answer_instead_change_the_answer_or_fail(bench: Bench) -> None:
    class Layer(Middleware):
        async def handle(self, context: HandlerContext, call_next: Callable[[], Awaitable[Result]]) -> Result:
            match context.command.data["do"]:
                case "answer":
                    return {"by": "layer"}
                case "fail":
                    raise TransientCommandError("LAYER")
            return {"outer": await call_next()}

    calls: list[str] = []

    @bench.handler("Ping")
    def ping(command: Command, context: HandlerContext) -> dict[str, str]:
        calls.append(command.data["do"])
        return {"by": "handler"}

    async with bench.worker(middleware=[Layer()]):
        answered = await bench.until(await bench.send("Ping", {"do": "answer"}))
        wrapped = await bench.until(await bench.send("Ping", {"do": "wrap"}))
        parked = await bench.until(await bench.send("Ping", {"do": "fail"}), CommandStatus.IN_TROUBLESHOOTING_QUEUE)
    assert answered.result == {"by": "layer"}
    assert wrapped.result == {"outer": {"by": "handler"}}
    assert (parked.error_code, parked.attempts) == ("LAYER", 3)
    assert calls == ["wrap"]


async def test_a_layer_sees_the_time_out_of_its_handler(bench: Bench) -> None:
    seen: list[str] = []

    class Layer(Middleware):
        async def handle(self, context: HandlerContext, call_next: Callable[[], Awaitable[Result]]) -> Result:
            try:
                return await call_next()
            except BaseException as error:
                seen.append(type(error).__name__)
                raise

    @bench.handler("Endless")
    async def endless(command: Command, context: HandlerContext) -> None:
        await asyncio.Event().wait()

    async with bench.worker(middleware=[Layer()], visibility_timeout=0.5):
        parked = await bench.until(await bench.send("Endless", max_attempts=1), CommandStatus.IN_TROUBLESHOOTING_QUEUE)
    assert parked.error_code == "TIMEOUT"
    assert seen == ["CancelledError"]


async def test_a_layer_that_cannot_prepare_costs_no_attempt(bench: Bench) -> None:
    class Layer(Middleware):
        failures = 0

        async def claimed(self, batch: Sequence[HandlerContext]) -> None:
            if self.failures == 0:
                self.failures += 1
                raise ConnectionError("the tracer is away")

    @bench.handler("Ping")
    async def ping(command: Command, context: HandlerContext) -> None: ...

    async with bench.worker(middleware=[Layer()]):
        done = await bench.until(await bench.send("Ping"))
    assert (done.attempts, done.lost_leases) == (1, 0)
    assert await bench.trail(done.command_id) == ["SENT", "RECEIVED", "RELEASED", "RECEIVED", "COMPLETED"]


async def test_what_a_layer_cannot_prepare_for_is_left_to_other_workers(bench: Bench) -> None:
    """The worker that gave it back asks again only after a pause, though the notification of its release wakes it."""

    class Broken(Middleware):
        async def claimed(self, batch: Sequence[HandlerContext]) -> None:
            raise ConnectionError("the tracer is away")

    @bench.handler("Ping")
    async def ping(command: Command, context: HandlerContext) -> None: ...

    async with bench.worker(middleware=[Broken()], poll_interval=NEVER) as broken:
        command_id = await bench.send("Ping")

        async def twice() -> bool | None:
            return (await bench.trail(command_id)).count("RELEASED") >= 2 or None

        await eventually(twice, "the command to be given back twice")
        async with bench.worker(poll_interval=NEVER) as healthy:
            await bench.until(command_id)
    events = await bench.bus.get_audit_trail(command_id)
    assert events[-1].worker_id == healthy.worker_id
    pairs = [(a, b) for a, b in pairwise(events) if a.event_type == "RELEASED" and b.worker_id == broken.worker_id]
    assert pairs
    assert all((again.timestamp - released.timestamp).total_seconds() > 0.9 for released, again in pairs)


@pytest.mark.parametrize("timeout", [None, 0])
async def test_a_stop_amid_a_claim_releases_what_was_claimed(bench: Bench, timeout: float | None) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    class Layer(Middleware):
        async def claimed(self, batch: Sequence[HandlerContext]) -> None:
            entered.set()
            await go_on.wait()

    @bench.handler("Ping")
    async def ping(command: Command, context: HandlerContext) -> None:
        await asyncio.Event().wait()

    worker = bench.make_worker(middleware=[Layer()])
    run = asyncio.create_task(worker.run())
    command_id = await bench.send("Ping")
    await entered.wait()
    stop = asyncio.create_task(worker.stop(timeout))
    asyncio.get_running_loop().call_later(0.1, go_on.set)
    async with asyncio.timeout(5):
        await stop
        await run
    assert await bench.trail(command_id) == ["SENT", "RECEIVED", "RELEASED"]


async def test_a_layer_is_told_of_outcomes_before_and_after_they_are_recorded(bench: Bench) -> None:
    told: list[tuple[str, str, CommandStatus]] = []

    class Layer(Middleware):
        async def settling(self, batch: Sequence[Ended]) -> None:
            await self.tell("settling", batch)

        async def settled(self, batch: Sequence[Ended]) -> None:
            await self.tell("settled", batch)
            raise ConnectionError("the collector is away")  # is logged, no more

        async def tell(self, when: str, batch: Sequence[Ended]) -> None:
            for context, event in batch:
                status = (await bench.bus.get_command(context.command.command_id)).status
                told.append((when, event, status))

    @bench.handler("Ping")
    async def ping(command: Command, context: HandlerContext) -> None:
        if context.attempt == 1:
            raise TransientCommandError("AGAIN")

    @bench.handler("OwnTransaction")
    async def own_transaction(command: Command, context: HandlerContext) -> None:
        async with context.transaction():
            await context.complete()
        async with context.transaction():  # has nothing to settle any more
            pass

    in_progress, completed = CommandStatus.IN_PROGRESS, CommandStatus.COMPLETED
    async with bench.worker(middleware=[Layer()]):
        await bench.until(await bench.send("Ping"))
        await eventually(lambda: found(len(told) == 4), "four calls")
        assert told == [
            ("settling", "RETRY_SCHEDULED", in_progress),
            ("settled", "RETRY_SCHEDULED", CommandStatus.PENDING),
            ("settling", "COMPLETED", in_progress),
            ("settled", "COMPLETED", completed),
        ]
        await bench.until(await bench.send("OwnTransaction"))
        await eventually(lambda: found(len(told) == 6), "two calls more")
    assert told[4:] == [("settling", "COMPLETED", in_progress), ("settled", "COMPLETED", completed)]


async def test_a_layer_is_told_of_an_outcome_that_came_too_late(bench: Bench) -> None:
    events: list[str] = []
    entered, go_on = asyncio.Event(), asyncio.Event()

    class Layer(Middleware):
        async def claimed(self, batch: Sequence[HandlerContext]) -> None:
            if entered.is_set():
                raise ConnectionError("what it claims again is for others")

        async def settling(self, batch: Sequence[Ended]) -> None:
            entered.set()
            await go_on.wait()

        async def settled(self, batch: Sequence[Ended]) -> None:
            events.extend(ended.event for ended in batch)

    @bench.handler("Ping")
    async def ping(command: Command, context: HandlerContext) -> None: ...

    async with bench.worker(middleware=[Layer()]):
        command_id = await bench.send("Ping")
        await entered.wait()
        await bench.skip(60)  # its lease runs out
        async with bench.worker():
            await bench.until(command_id)
        go_on.set()
        await bench.until_event(command_id, "LATE_OUTCOME_DROPPED")
        await eventually(lambda: found(bool(events)), "the call after")
    assert events == ["LATE_OUTCOME_DROPPED"]


async def found(so: bool) -> bool | None:
    return so or None
