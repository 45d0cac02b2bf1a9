"""Headers travel: from the sender to the handler, to its reply, and to the next command of its process."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from commandbus import (
    BatchCommand,
    Command,
    CommandBus,
    HandlerContext,
    InvalidPayloadError,
    PermanentCommandError,
    ReplyQueue,
    SendRequest,
    TransientCommandError,
)
from commandbus.process import ProcessReplyRouter
from tests.integration.process_kit import make_manager, open_hand, operators
from tests.integration.worker_kit import PATIENCE, Bench, eventually

pytestmark = pytest.mark.asyncio
STORED = """
    SELECT step, headers ->> 'trace' FROM commandbus.command WHERE process_id = %s ORDER BY created_at, command_id"""


def naming(prefix: str) -> Callable[[str, str], dict[str, str]]:
    return lambda domain, command_type: {"trace": f"{prefix} {command_type}", "odd": "é\N{SNOWMAN}\\\"'"}


async def test_each_way_of_sending_gives_headers_to_the_handler_and_to_each_of_its_attempts(bench: Bench) -> None:
    bus, seen = CommandBus(bench.pool, headers=naming("sent")), []

    @bench.handler("Ship")
    async def ship(command: Command, context: HandlerContext) -> None:
        seen.append((command.command_id, context.attempt, dict(context.headers)))
        context.headers.clear()  # of this attempt only
        if context.attempt == 1:
            raise TransientCommandError("LATER", "once more")

    one, many, batched, plain = uuid4(), uuid4(), uuid4(), uuid4()
    await bus.send(domain=bench.domain, command_type="Ship", command_id=one, data={})
    await bus.send_batch([SendRequest(bench.domain, "Ship", many, {})])
    await bus.create_batch(bench.domain, [BatchCommand("Ship", batched, {})])
    await bench.send("Ship", command_id=plain)
    async with bench.worker():
        for command_id in (one, many, batched, plain):
            await bench.until(command_id)
    given = naming("sent")(bench.domain, "Ship")
    expected = [(i, attempt, {} if i == plain else given) for i in (one, many, batched, plain) for attempt in (1, 2)]
    assert sorted(seen, key=str) == sorted(expected, key=str)


@pytest.mark.parametrize("bad", [{"n": 1}, {1: "n"}, {"long": "x" * 20_000}, {"half": "\ud800"}], ids=str)
async def test_what_is_no_text_or_too_much_is_refused_and_nothing_sent(bench: Bench, bad: Any) -> None:
    bus, command_id = CommandBus(bench.pool, headers=lambda *_: bad), uuid4()
    with pytest.raises(InvalidPayloadError, match="headers"):
        await bus.send(domain=bench.domain, command_type="Ship", command_id=command_id, data={})
    assert await bench.execute("SELECT 1 FROM commandbus.command WHERE command_id = %s", command_id) == []


async def test_each_command_of_a_process_has_what_the_handler_before_it_left(bench: Bench) -> None:
    manager = make_manager(bench)
    manager.headers = naming("started")

    def left(step: str) -> None:
        @bench.handler(step)
        async def handle(command: Command, context: HandlerContext) -> None:
            context.headers["trace"] = f"{context.headers.get('trace')} > {step}"
            if step == "Pay":
                context.headers["broken"] = object()  # type: ignore[assignment]  # costs the headers, not the outcome

    for step in ("Reserve", "Pay", "Ship"):
        left(step)
    process_id = await manager.start({})
    async with bench.worker(processes=[manager]):
        await ended(bench, process_id)
    assert await bench.execute(STORED, process_id) == [
        ("Reserve", "started Reserve"),
        ("Pay", "started Reserve > Reserve"),
        ("Ship", None),
    ]


async def test_a_reply_has_them_and_so_has_the_next_command_that_another_application_sends(bench: Bench) -> None:
    manager = make_manager(bench)
    manager.headers = naming("started")

    @bench.handler("Reserve")
    async def reserve(command: Command, context: HandlerContext) -> None:
        context.headers = {"trace": "reserved"}

    @bench.handler("Pay")
    async def pay(command: Command, context: HandlerContext) -> None:
        raise PermanentCommandError("BROKEN", "an operator decides")

    queue = ReplyQueue(bench.pool, f"shop-{bench.domain}")
    asked = await bench.send("Reserve", reply_to=queue.reply_to)
    process_id = await manager.start({})
    async with bench.worker():  # without the manager: a router takes the process's reply
        await bench.until(asked)
        (reply,) = await queue.receive()
        assert reply.headers == {"trace": "reserved"}
        router = ProcessReplyRouter([manager], bench.pool)
        await eventually(lambda: routed(router), "the reply to be routed", patience=PATIENCE)
        (paying,) = await eventually(lambda: parked(bench, process_id), "a parked payment", patience=PATIENCE)
    await operators(bench, manager).operator_complete(paying, {"paid": 1}, operator="ann")
    assert await bench.execute(STORED, process_id) == [
        ("Reserve", "started Reserve"),
        ("Pay", "reserved"),
        ("Ship", "reserved"),
    ]
    async with open_hand(bench, manager) as hand:
        claimed = await hand.claim()
    assert [c.step for c in claimed] == ["Ship"]


async def routed(router: ProcessReplyRouter) -> int | None:
    return await router.route() or None


async def parked(bench: Bench, process_id: UUID) -> list[UUID] | None:
    rows = await bench.execute(
        "SELECT t.command_id FROM commandbus.troubleshooting t JOIN commandbus.command USING (command_id)"
        " WHERE process_id = %s",
        process_id,
    )
    return [row[0] for row in rows] or None


async def ended(bench: Bench, process_id: UUID) -> None:
    async def look() -> bool | None:
        rows = await bench.execute("SELECT completed_at FROM commandbus.process WHERE process_id = %s", process_id)
        return True if rows[0][0] is not None else None

    await eventually(look, "the process to end", patience=60)
