"""Replies: exactly one for each terminal command, as a row or as the process's advance, applied at most once."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from commandbus import BusinessRuleError, PermanentCommandError, TransientCommandError
from commandbus.auditor import audit
from commandbus.process import ProcessCommand, ProcessReplyRouter, ProcessRepository, ProcessStatus, router
from tests.integration.process_kit import make_manager, open_hand, operators, process_of, steps_of
from tests.integration.worker_kit import NEVER, Bench, eventually, open_bench

pytestmark = pytest.mark.asyncio

REPLIES = """
    SELECT reply_to, correlation_id, outcome, result, error_code, error_message
      FROM commandbus.reply WHERE command_id = %s"""
WAITING = "SELECT count(*) FROM commandbus.reply WHERE reply_to = %s"
REPLAY = """
    INSERT INTO commandbus.reply (reply_to, command_id, process_id, outcome, result, created_at)
    SELECT 'process:' || p.process_type, c.command_id, p.process_id, %s, '{"replayed": true}', commandbus.now()
      FROM commandbus.command c JOIN commandbus.process p ON p.process_id = c.process_id WHERE c.command_id = %s"""
TAKE_AWAY = """
    UPDATE commandbus.reply SET process_id = gen_random_uuid() WHERE process_id = %s RETURNING process_id, command_id"""
BROKEN = PermanentCommandError("BROKEN", "out of order")
REFUSED = BusinessRuleError("NO_STOCK", "sold out")


async def waiting(bench: Bench, manager: Any) -> int:
    return int((await bench.execute(WAITING, f"process:{manager.process_type}"))[0][0])


async def test_a_plain_command_that_nobody_waits_for_leaves_no_reply(bench: Bench) -> None:
    command_id = await bench.send("Reserve")
    async with open_hand(bench) as hand:
        await hand.turn({})
    assert await bench.execute(REPLIES, command_id) == []


async def test_each_outcome_leaves_exactly_one_reply_row(bench: Bench) -> None:
    asked = uuid4()
    tsq = operators(bench)
    address = f"accounts-{bench.domain}"
    async with open_hand(bench) as hand:

        async def send(*ends: Any) -> UUID:
            command_id = await bench.send("Reserve", reply_to=address, correlation_id=asked)
            for end in ends:
                assert await bench.execute(REPLIES, command_id) == []
                await hand.turn(end)
            return command_id

        done = await send(TransientCommandError("BUSY"), {"shelf": 4})
        empty = await send(None)
        failed = await send(REFUSED)
        canceled, completed = await send(BROKEN), await send(BROKEN)
        retried = await send(BROKEN)
        assert [await bench.execute(REPLIES, c) for c in (canceled, completed, retried)] == [[], [], []]
        await tsq.operator_cancel(canceled, operator="ann", reason="late")
        await tsq.operator_complete(completed, {"by": "ann"})
        await tsq.operator_retry(retried)
        assert await bench.execute(REPLIES, retried) == []
        await hand.turn({"at": "last"})
    expected = {
        done: ("SUCCESS", {"shelf": 4}, None, None),
        empty: ("SUCCESS", None, None, None),
        failed: ("FAILED", None, "NO_STOCK", "sold out"),
        canceled: ("CANCELED", None, "CANCELED", "cancelled by ann: late"),
        completed: ("SUCCESS", {"by": "ann"}, None, None),
        retried: ("SUCCESS", {"at": "last"}, None, None),
    }
    for command_id, reply in expected.items():
        assert await bench.execute(REPLIES, command_id) == [(address, asked, *reply)]
    assert await bench.execute("SELECT count(*) FROM commandbus.reply WHERE reply_to = %s", address) == [(6,)]


async def test_a_process_whose_manager_is_here_advances_and_leaves_no_row(bench: Bench) -> None:
    manager = make_manager(bench)
    await manager.start({})
    async with open_hand(bench, manager) as hand:
        claimed = await hand.turn({})
    assert await bench.execute(REPLIES, claimed.command_id) == []


@pytest.mark.parametrize(
    ("end", "reply", "status", "step"),
    [
        ({"n": 1}, ("SUCCESS", {"n": 1}, None, None), "WAITING_FOR_REPLY", "Pay"),
        (REFUSED, ("FAILED", None, "NO_STOCK", "sold out"), "CANCELED", "Reserve"),
    ],
)
async def test_a_worker_without_the_manager_leaves_one_row_and_a_router_applies_it(
    bench: Bench, end: Any, reply: tuple[Any, ...], status: str, step: str
) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench) as hand:
        claimed = await hand.turn(end)
    before = await process_of(bench, process_id)
    assert (before.status, before.current_step) == ("WAITING_FOR_REPLY", "Reserve")
    address = f"process:{manager.process_type}"
    assert await bench.execute(REPLIES, claimed.command_id) == [(address, process_id, *reply)]
    assert await ProcessReplyRouter([manager], bench.pool).route() == 1
    after = await process_of(bench, process_id)
    assert (after.status, after.current_step) == (status, step)
    assert await bench.execute(REPLIES, claimed.command_id) == []
    assert await ProcessReplyRouter([manager], bench.pool).route() == 0
    assert await process_of(bench, process_id) == after


async def test_a_router_in_another_worker_takes_processes_to_their_end(bench: Bench) -> None:
    """The steps are carried out in one domain, by workers that do not know the process of another domain."""

    def elsewhere(self: Any, step: str, state: Any) -> ProcessCommand:
        return ProcessCommand(step, {}, domain=handling.domain)

    manager = make_manager(bench, build_command=elsewhere)
    batch_id = uuid4()
    async with open_bench(bench.dsn) as handling:
        for step in ("Reserve", "Pay", "Ship"):

            @handling.handler(step)
            async def handle(command: Any, context: Any) -> dict[str, Any]:
                return {"step": context.step}

        await manager.start_many([{"order": n} for n in range(10)], batch_id)
        async with handling.worker(poll_interval=NEVER):

            async def first_steps_done() -> bool | None:
                return await waiting(bench, manager) == 10 or None

            await eventually(first_steps_done, "10 reply rows")
            async with bench.worker(processes=[manager], poll_interval=NEVER):  # woken by notifications alone

                async def all_completed() -> bool | None:
                    done = await ProcessRepository(bench.pool).of_batch(batch_id, ProcessStatus.COMPLETED)
                    return len(done) == 10 or None

                await eventually(all_completed, "10 completed processes")
    assert await waiting(bench, manager) == 0


async def test_a_reply_that_comes_again_changes_nothing(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        first = await hand.turn({"n": 1})
        before = await process_of(bench, process_id)
        for outcome in ("SUCCESS", "FAILED"):  # the process waits for Pay now
            await bench.execute(REPLAY, outcome, first.command_id)
            assert await ProcessReplyRouter([manager], bench.pool).route() == 1
            assert await process_of(bench, process_id) == before
        await hand.turn({"n": 2})
        last = await hand.turn({"n": 3})
        ended = await process_of(bench, process_id)
        for late in (first, last):  # it waits for nothing any more
            await bench.execute(REPLAY, "FAILED", late.command_id)
            assert await ProcessReplyRouter([manager], bench.pool).route() == 1
    assert await process_of(bench, process_id) == ended
    assert len(await steps_of(bench, process_id)) == 3
    assert await waiting(bench, manager) == 0


async def test_replies_out_of_order_are_dropped_beside_one_that_counts(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as managing, open_hand(bench) as plain:
        first = await managing.turn({"n": 1})
        await bench.execute(REPLAY, "SUCCESS", first.command_id)  # old, and before the one that counts
        second = await plain.turn({"n": 2})
        assert await ProcessReplyRouter([manager], bench.pool).route() == 2
        process = await process_of(bench, process_id)
        assert (process.current_step, process.state["results"]) == ("Ship", [{"n": 1}, {"n": 2}])
        assert await bench.execute(REPLIES, second.command_id) == []


async def test_a_reply_for_a_manager_that_is_unknown_here_is_kept_until_there_is_one(bench: Bench) -> None:
    manager = make_manager(bench)
    stranger = make_manager(bench, process_type=f"stranger-{bench.domain[1:13]}")
    process_id = await manager.start({})
    async with open_hand(bench) as hand:
        await hand.turn({"n": 1})
    assert await ProcessReplyRouter([stranger], bench.pool).route() == 0
    assert await ProcessReplyRouter([], bench.pool).route() == 0
    assert await waiting(bench, manager) == 1
    assert await ProcessReplyRouter([stranger, manager], bench.pool).route() == 1
    assert (await process_of(bench, process_id)).current_step == "Pay"


async def test_a_reply_for_a_process_that_is_unknown_is_kept_and_named_by_the_audit_and_holds_nothing_up(
    bench: Bench,
) -> None:
    manager = make_manager(bench)
    lost_id, process_id = await manager.start({}), await manager.start({})
    async with open_hand(bench) as hand:
        for _ in range(2):
            await hand.turn({"n": 1})
    ((unknown, orphan_id),) = await bench.execute(TAKE_AWAY, lost_id)
    for taken in (1, 0):
        assert await ProcessReplyRouter([manager], bench.pool).route() == taken
    assert (await process_of(bench, process_id)).current_step == "Pay"
    assert await waiting(bench, manager) == 1
    async with await psycopg.AsyncConnection.connect(bench.dsn) as conn:
        found = await audit(conn, domains=[bench.domain])
    assert str(orphan_id) in {violation.subject for violation in found}
    await bench.execute("UPDATE commandbus.reply SET process_id = %s WHERE process_id = %s", lost_id, unknown)
    assert await ProcessReplyRouter([manager], bench.pool).route() == 1  # as soon as it is known
    assert (await process_of(bench, lost_id)).current_step == "Pay"


async def test_many_replies_are_routed_in_chunks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "_CHUNK", 3)
    manager = make_manager(bench)
    batch_id = uuid4()
    await manager.start_many([{"order": n} for n in range(10)], batch_id)
    async with open_hand(bench) as hand:
        await hand.settle(*[(claimed, {}) for claimed in await hand.claim(10)])
    assert await ProcessReplyRouter([manager], bench.pool).route() == 10
    assert {p.current_step for p in await ProcessRepository(bench.pool).of_batch(batch_id)} == {"Pay"}


async def test_a_decision_or_hook_that_raises_in_the_router_fails_its_process_alone(bench: Bench) -> None:
    def breaks(self: Any, state: Any, step: str, response: Any) -> None:
        state.results.append(response.result)
        if state.order == 1:
            raise ZeroDivisionError("in update_state")

    async def hook(self: Any, process: Any, step: str, command_id: UUID, payload: Any, conn: Any) -> None:
        if process.state["order"] == 2 and step == "Pay":
            await conn.execute("SELECT 1/0")

    manager = make_manager(bench, update_state=breaks, before_send_command=hook)
    batch_id = uuid4()
    await manager.start_many([{"order": n} for n in range(4)], batch_id)
    async with open_hand(bench) as hand:
        await hand.settle(*[(claimed, {}) for claimed in await hand.claim(4)])
    assert await ProcessReplyRouter([manager], bench.pool).route() == 4
    processes = await ProcessRepository(bench.pool).of_batch(batch_id)
    assert [p.status for p in processes] == ["WAITING_FOR_REPLY", "FAILED", "FAILED", "WAITING_FOR_REPLY"]
    assert (processes[1].error_message or "").startswith("update_state raised ZeroDivisionError")
    assert (processes[2].error_message or "").startswith("before_send_commands raised DivisionByZero")
    assert await waiting(bench, manager) == 0


async def test_two_routers_at_once_apply_each_reply_once(bench: Bench) -> None:
    manager = make_manager(bench)
    batch_id = uuid4()
    await manager.start_many([{"order": n} for n in range(20)], batch_id)
    async with open_hand(bench) as hand:
        await hand.settle(*[(claimed, {}) for claimed in await hand.claim(20)])
    routers = [ProcessReplyRouter([manager], bench.pool) for _ in range(4)]
    assert sum(await asyncio.gather(*[r.route() for r in routers])) == 20
    for process in await ProcessRepository(bench.pool).of_batch(batch_id):
        assert (process.current_step, process.state["results"]) == ("Pay", [{}])


async def test_a_router_that_is_rolled_back_leaves_the_replies(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench) as hand:
        await hand.turn({})
    async with bench.pool.connection() as conn:
        assert await ProcessReplyRouter([manager]).route(conn) == 1
        assert await ProcessReplyRouter([manager], bench.pool).route() == 0  # it is taken, and locked
        await conn.rollback()
    assert (await process_of(bench, process_id)).current_step == "Reserve"
    assert await ProcessReplyRouter([manager], bench.pool).route() == 1
