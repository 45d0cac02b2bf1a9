"""Two versions of an application at once, and one rolled back: nothing is lost, nothing burned, no hot loop."""

import asyncio
import runpy
import signal
from collections.abc import AsyncIterator
from enum import StrEnum
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from psycopg_pool import AsyncConnectionPool

from commandbus import (
    BusinessRuleError,
    CommandBus,
    InvalidOperationError,
    PermanentCommandError,
    SendRequest,
    TroubleshootingQueue,
    migrate,
)
from commandbus.process import ProcessCommand, ProcessReplyRouter, ProcessStatus
from tests.integration.deployments import PATIENCE, Deployed, ask, audit_clean, deployed, ended, events, most_events
from tests.integration.process_kit import OrderProcess, make_manager, open_hand, operators, process_of, steps_of
from tests.integration.worker_kit import Bench, eventually


class NewStep(StrEnum):
    RESERVE = "Reserve"
    WRAP = "Wrap"
    PAY = "Pay"
    SHIP = "Ship"
    UNWRAP = "Unwrap"
    RETURN = "Return"
    REFUND = "Refund"


class NewOrder(OrderProcess):
    """The next version: an order is wrapped before it is paid, by a command type that the old version has too."""

    step_class = NewStep

    def build_command(self, step: str, state: Any) -> ProcessCommand:
        return ProcessCommand({"Wrap": "Reserve", "Unwrap": "Return"}.get(step, step), {"order": state.order})

    def get_compensation_step(self, step: str) -> str | None:
        return NewStep.UNWRAP if step == NewStep.WRAP else super().get_compensation_step(step)


PATH = {"path": ["Reserve", "Wrap", "Pay"]}


def two_versions(bench: Bench) -> tuple[Any, Any]:
    """The managers of one process type, old and new."""
    old = make_manager(bench)
    return old, make_manager(bench, NewOrder, process_type=old.process_type)


@pytest.mark.asyncio
async def test_a_reply_at_a_step_of_the_new_version_waits_for_it(bench: Bench) -> None:
    old, new = two_versions(bench)
    process_id = await new.start(PATH)
    async with open_hand(bench, new) as hand:
        await hand.turn(step="Reserve")
    async with open_hand(bench, old) as hand:
        assert (await process_of(bench, process_id)).current_step == "Wrap"
        await hand.turn({"wrapped": True}, step="Wrap")
        assert (await process_of(bench, process_id)).status is ProcessStatus.WAITING_FOR_REPLY
        other = await old.start({})
        assert await ProcessReplyRouter([old], bench.pool).route() == 0
        assert await ProcessReplyRouter([new], bench.pool).route() == 1
        await hand.turn(step="Reserve")  # of the other one
        await hand.turn({"paid": True}, step="Pay")  # which both know
        await hand.turn(step="Pay")
        await hand.turn(step="Ship")
    process = await process_of(bench, process_id)
    assert (process.status, process.state["results"]) == ("COMPLETED", [None, {"wrapped": True}, {"paid": True}])
    assert (await process_of(bench, other)).status is ProcessStatus.COMPLETED


@pytest.mark.asyncio
async def test_replies_of_another_version_do_not_keep_the_others_waiting(bench: Bench) -> None:
    old, new = two_versions(bench)
    stay = [await new.start(PATH) for _ in range(3)]
    async with open_hand(bench, new) as hand:
        for _ in stay:
            await hand.turn(step="Reserve")
    async with open_hand(bench) as elsewhere:  # its application has neither manager
        for _ in stay:
            await elsewhere.turn(step="Wrap")
        go = [await old.start({"path": ["Reserve"]}) for _ in range(3)]
        for _ in go:
            await elsewhere.turn(step="Reserve")
    assert await ProcessReplyRouter([old], bench.pool).route() == 3
    assert {(await process_of(bench, p)).status for p in go} == {ProcessStatus.COMPLETED}
    assert {(await process_of(bench, p)).status for p in stay} == {ProcessStatus.WAITING_FOR_REPLY}


@pytest.mark.asyncio
async def test_only_the_new_version_undoes_what_only_it_has_done(bench: Bench) -> None:
    old, new = two_versions(bench)
    process_id = await new.start(PATH)
    async with open_hand(bench, new) as hand:
        await hand.turn(step="Reserve")
        await hand.turn(step="Wrap")
    async with open_hand(bench, old) as hand:
        await hand.turn(BusinessRuleError("NO_MONEY", "the card was refused"), step="Pay")
        assert await ProcessReplyRouter([old], bench.pool).route() == 0
        assert await ProcessReplyRouter([new], bench.pool).route() == 1
        await hand.turn(step="Unwrap")
        assert await ProcessReplyRouter([old], bench.pool).route() == 0
        assert await ProcessReplyRouter([new], bench.pool).route() == 1
        await hand.turn(step="Return")  # this and what is left both versions know
    process = await process_of(bench, process_id)
    assert (process.status, process.error_code) == ("CANCELED", "NO_MONEY")
    assert [step for step, _, _ in await steps_of(bench, process_id)] == ["Reserve", "Wrap", "Pay", "Unwrap", "Return"]


@pytest.mark.parametrize("verb", ["cancel", "complete"])
@pytest.mark.asyncio
async def test_an_operator_of_the_old_version_leaves_the_process_to_the_new_one(bench: Bench, verb: str) -> None:
    old, new = two_versions(bench)
    process_id = await new.start(PATH)
    async with open_hand(bench, new) as hand:
        await hand.turn(step="Reserve")
        parked = await hand.turn(PermanentCommandError("TORN", "no paper"), step="Wrap")
        operator = operators(bench, old)
        await (operator.operator_cancel if verb == "cancel" else operator.operator_complete)(parked.command_id)
        assert (await process_of(bench, process_id)).status is ProcessStatus.WAITING_FOR_REPLY
        assert await ProcessReplyRouter([old], bench.pool).route() == 0
        assert await ProcessReplyRouter([new], bench.pool).route() == 1
        await hand.turn(step="Return" if verb == "cancel" else "Pay")
    assert (await process_of(bench, process_id)).status == ("COMPENSATED" if verb == "cancel" else "COMPLETED")


@pytest.mark.asyncio
async def test_the_old_version_cannot_cancel_what_it_could_not_undo(bench: Bench) -> None:
    old, new = two_versions(bench)
    process_id = await new.start(PATH)
    async with open_hand(bench, new) as hand:
        await hand.turn(step="Reserve")
        await hand.turn(step="Wrap")
        before = (await process_of(bench, process_id), await steps_of(bench, process_id))
        with pytest.raises(InvalidOperationError, match=r"steps that Order\w* does not declare here .*Wrap"):
            await old.cancel_process(process_id)
        assert (await process_of(bench, process_id), await steps_of(bench, process_id)) == before
        assert await new.cancel_process(process_id)
        await hand.turn(step="Unwrap")
        await hand.turn(step="Return")
    assert (await process_of(bench, process_id)).status is ProcessStatus.COMPENSATED


# The same as files, for worker processes. The new version has a command type (Gift), a process type (Loyalty), two
# steps (Check, by a command type that both handle, and Wrap) and a field of state (coupon) that the old one lacks.
COMMON = """
import asyncio
from dataclasses import dataclass, field
from enum import StrEnum
from commandbus import App, RetryPolicy
from commandbus.process import BaseProcessManager, ProcessCommand

app = App(retry_policy=RetryPolicy(max_attempts=3, backoff_schedule=[0]))

async def work(command, context):
    await asyncio.sleep(command.data.get("seconds", 0))
    return {"by": VERSION}

for command_type in TYPES:
    app.registry.add("shop", command_type, work)

Step = StrEnum("Step", [(name.upper(), name) for name in dict.fromkeys([*ORDER, *LOYALTY])])
COMMANDS = {"Check": "Reserve", "Wrap": "Gift", "Welcome": "Reserve"}

class Process(BaseProcessManager):
    domain = "shop"
    step_class = Step
    path = ()

    def create_initial_state(self, initial_data):
        return self.state_class(**initial_data)

    def get_first_step(self, state):
        return Step(self.path[0])

    def build_command(self, step, state):
        return ProcessCommand(COMMANDS.get(step, str(step)), {})

    def update_state(self, state, step, response):
        state.done.append(str(step))

    def get_next_step(self, current_step, response, state):
        at = self.path.index(current_step) + 1
        return Step(self.path[at]) if at < len(self.path) else None
"""
OLD = f"""
VERSION, TYPES, ORDER, LOYALTY = "old", ["Reserve", "Pay"], ["Reserve", "Pay"], []
{COMMON}
@dataclass
class State:
    order: int
    done: list = field(default_factory=list)

class Order(Process):
    process_type, state_class, path = "Order", State, ORDER

app.add_process(Order)
"""
NEW = f"""
VERSION, TYPES = "new", ["Reserve", "Pay", "Gift"]
ORDER, LOYALTY = ["Reserve", "Check", "Wrap", "Pay"], ["Welcome", "Wrap"]
{COMMON}
@dataclass
class State:
    order: int
    done: list = field(default_factory=list)
    coupon: str = ""

class Order(Process):
    process_type, state_class, path = "Order", State, ORDER

class Loyalty(Process):
    process_type, state_class, path = "Loyalty", State, LOYALTY

app.add_process(Order)
app.add_process(Loyalty)
"""
COUNT = """
    SELECT count(*)::integer FROM commandbus.command_state c LEFT JOIN commandbus.process p USING (process_id) WHERE """
OPTIONS = ("--visibility-timeout", "3", "--poll-interval", "0.2")


class Shop:
    """Both versions as files, and what they send."""

    def __init__(self, folder: Path, dsn: str, pool: AsyncConnectionPool[Any]) -> None:
        self.folder, self.dsn, self.pool, self.bus = folder, dsn, pool, CommandBus(pool)
        self.began = monotonic()
        self.coupons = 0  # orders of the new version: each has one, and is to keep it
        for name, text in (("old", OLD), ("new", NEW)):
            (folder / f"{name}.py").write_text(text)
        self.old, self.new = (runpy.run_path(str(folder / f"{name}.py")) for name in ("old", "new"))

    def deploy(self, name: str, *options: str) -> Any:
        return deployed(self.folder, self.dsn, f"{name}:app", *OPTIONS, *options)

    async def send(self, command_type: str, count: int, seconds: float = 0) -> None:
        await self.bus.send_batch(
            SendRequest(domain="shop", command_type=command_type, command_id=uuid4(), data={"seconds": seconds})
            for _ in range(count)
        )

    async def old_orders(self, count: int) -> None:
        await self.old["Order"](self.pool).start_many({"order": n} for n in range(count))

    async def new_orders(self, count: int) -> None:
        self.coupons += count
        await self.new["Order"](self.pool).start_many({"order": 1_000 + n, "coupon": "X7"} for n in range(count))

    async def members(self, count: int) -> None:
        await self.new["Loyalty"](self.pool).start_many({"order": n} for n in range(count))

    async def number(self, condition: str) -> int:
        """How many commands (c, with its process p) there are of a kind."""
        [(found,)] = await ask(self.dsn, COUNT + condition)
        return int(found)

    async def until(self, count: int, condition: str) -> None:
        async def look() -> bool | None:
            return await self.number(condition) >= count or None

        await eventually(look, f"{count} commands with {condition}", patience=PATIENCE)

    async def beats(self, worker: Deployed, count: int = 2) -> None:
        """Wait for so many heartbeats of a worker: with each it looks which types others have."""
        seen = set()
        beat = "SELECT heartbeat_at FROM commandbus.worker WHERE pid = %s"

        async def look() -> bool | None:
            seen.update(await ask(self.dsn, beat, worker.process.pid))
            return len(seen) > count or None

        await eventually(look, f"{count} heartbeats", patience=PATIENCE)

    async def end(self, worker: Deployed, how: signal.Signals) -> None:
        """End a worker process; a killed one counts as dead at once, not only when its heartbeats are missed."""
        if how is signal.SIGTERM:
            worker.stop()
        else:
            worker.kill()
            await ask(
                self.dsn,
                "UPDATE commandbus.worker SET alive_until = clock_timestamp() WHERE pid = %s",
                worker.process.pid,
            )

    async def until_no_gift_waits(self) -> None:
        """Wait until each of the new version's commands has ended or is parked."""

        async def look() -> bool | None:
            return await self.number("c.command_type = 'Gift' AND c.status IN ('PENDING', 'IN_PROGRESS')") == 0 or None

        await eventually(look, "a decision about each Gift", patience=PATIENCE)

    async def until_ended(self) -> None:
        await eventually(lambda: ended(self.dsn), "the end of everything", patience=PATIENCE)

    async def nothing_burned(self) -> None:
        """Every command was carried out once, in one attempt, and nothing went round in circles."""
        counted = await events(self.dsn)
        assert counted["RETRY_SCHEDULED"] == 0
        assert await self.number("c.status <> 'COMPLETED' OR c.attempts <> 1") == 0
        assert counted["COMPLETED"] == await self.number("true")
        # Too many of a type that a worker never ran go back once, what it has no handler for once in five seconds.
        given_back = 3 + (monotonic() - self.began) / 5
        assert await most_events(self.dsn, "RELEASED") <= given_back
        assert await most_events(self.dsn, "RECEIVED") <= given_back + 2
        coupons = "SELECT count(*) FROM commandbus.process WHERE process_type = 'Order' AND state ->> 'coupon' = 'X7'"
        assert await ask(self.dsn, coupons) == [(self.coupons,)]
        assert await ask(self.dsn, "SELECT DISTINCT status FROM commandbus.process") == [("COMPLETED",)]
        assert await self.number("c.command_type = 'Gift' AND c.result ->> 'by' <> 'new'") == 0
        await audit_clean(self.dsn)


@pytest_asyncio.fixture
async def shop(empty_dsn: str, tmp_path: Path) -> AsyncIterator[Shop]:
    migrate(empty_dsn)
    async with AsyncConnectionPool(empty_dsn, min_size=1, max_size=4, open=False) as pool:
        yield Shop(tmp_path, empty_dsn, pool)


ENDS = pytest.mark.parametrize(
    "how", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)], ids=lambda number: number.name
)


@ENDS
@pytest.mark.asyncio
async def test_a_rolling_deploy(shop: Shop, how: signal.Signals) -> None:
    with shop.deploy("old") as old, shop.deploy("new") as new:
        old.until_ready()
        await shop.old_orders(50)
        new.until_ready()
        await shop.send("Gift", 50)
        await shop.members(50)
        await shop.new_orders(50)
        new_order_by_old = (
            "p.process_type = 'Order' AND (p.state ->> 'order')::integer >= 1000 AND c.result ->> 'by' = 'old'"
        )
        async with asyncio.timeout(PATIENCE):
            for step in ("Reserve", "Check"):  # one that both managers know, one that the old one does not
                while not await shop.number(f"c.step = '{step}' AND {new_order_by_old}"):
                    await shop.new_orders(20)
        await shop.send("Reserve", 100, 0.05)
        await shop.until(5, "c.worker_id IS NOT NULL")
        await shop.end(old, how)
        await shop.until_ended()
        new.stop()
    assert await ask(shop.dsn, "SELECT count(*) FROM commandbus.event WHERE type = 'MOVED_TO_TSQ'") == [(0,)]
    await shop.nothing_burned()


@pytest.mark.slow
@ENDS
@pytest.mark.asyncio
async def test_a_rollback_and_another_try(shop: Shop, how: signal.Signals) -> None:
    with shop.deploy("old") as old:
        with shop.deploy("new", "--concurrency", "1") as new:
            old.until_ready(), new.until_ready()
            await shop.beats(old)
            await shop.send("Gift", 40, 0.3)
            await shop.until(3, "c.command_type = 'Gift' AND c.result ->> 'by' = 'new'")
            await shop.beats(old)
            assert (await events(shop.dsn))["RELEASED"] == 0  # the old version leaves alone what the new one handles
            await shop.end(new, how)
        await shop.until(10, "c.command_type = 'Gift' AND c.status = 'IN_TROUBLESHOOTING_QUEUE'")
        await shop.new_orders(10)
        await shop.members(10)  # the front end was not rolled back
        await shop.until(10, "c.step = 'Welcome' AND c.result ->> 'by' = 'old'")
        await shop.until(10, "p.process_type = 'Order' AND p.status = 'COMPLETED'")  # as the old version knows them
        await shop.until_no_gift_waits()
        await shop.beats(old)
        parked = "c.status = 'IN_TROUBLESHOOTING_QUEUE'"
        assert await shop.number(f"{parked} AND (c.attempts > 0 OR c.error_code <> 'HANDLER_NOT_FOUND')") == 0
        assert await ask(shop.dsn, "SELECT count(*) FROM commandbus.reply") == [(10,)]  # of the members, for the new
        assert (await events(shop.dsn))["RETRY_SCHEDULED"] == 0
        with shop.deploy("new") as again:
            again.until_ready()
            operator = TroubleshootingQueue(shop.pool)
            for (command_id,) in await ask(shop.dsn, "SELECT command_id FROM commandbus.troubleshooting"):
                await operator.operator_retry(command_id, operator="ann", reason="deployed again")
            await shop.until_ended()
            again.stop()
        old.stop()
    await shop.nothing_burned()
