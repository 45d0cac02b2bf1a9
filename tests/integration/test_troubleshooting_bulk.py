"""What operators do with many parked commands at once: it is the same as one by one, and one does not stop another."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from commandbus import (
    BatchCommand,
    BulkResult,
    CommandStatus,
    PermanentCommandError,
    TroubleshootingFilter,
)
from commandbus.errors import InvalidNameError, InvalidPayloadError
from commandbus.process import ProcessStatus
from commandbus.troubleshooting import queue as bulk
from tests.integration.process_kit import make_manager, open_hand, operators, process_of, steps_of
from tests.integration.tsq_kit import ACTIONS, BROKEN, STATE_AFTER, act, items, park, park_processes, parked_of
from tests.integration.worker_kit import Bench

pytestmark = pytest.mark.asyncio

PARKED = CommandStatus.IN_TROUBLESHOOTING_QUEUE
# What becomes of processes, all that does not differ by id or time.
OUTCOME = """
    SELECT p.status, p.current_step, p.state::text, p.visits::text, p.undone_status, p.error_code, p.error_message,
           (SELECT string_agg(concat_ws(' ', c.step, c.visit, s.status, s.attempts, s.error_code, c.result::text), ', '
                              ORDER BY c.created_at, c.command_id)
              FROM commandbus.command c JOIN commandbus.command_state s ON s.command_id = c.command_id
             WHERE c.process_id = p.process_id),
           (SELECT string_agg(concat_ws(' ', e.type, e.details::text), ', ' ORDER BY e.event_id)
              FROM commandbus.event e JOIN commandbus.command c ON c.command_id = e.command_id
             WHERE c.process_id = p.process_id)
      FROM commandbus.process p WHERE p.process_id = ANY(%s) ORDER BY array_position(%s, p.process_id)"""


@pytest.mark.parametrize("action", ACTIONS)
async def test_by_ids_each_that_is_parked_is_done_and_the_others_are_told(bench: Bench, action: str) -> None:
    async with open_hand(bench) as hand:
        done = await bench.send("Reserve")
        await hand.turn({})
        parked = await park(bench, hand, 5)
        waiting, unknown = await bench.send("Reserve"), uuid4()
        result = await act(
            operators(bench), action, "many", [parked[0], unknown, done, *parked, waiting, unknown, parked[2]]
        )
    assert result == BulkResult(5, [unknown], {done: CommandStatus.COMPLETED, waiting: CommandStatus.PENDING})
    for command_id in parked:
        assert (await bench.bus.get_command(command_id)).status == STATE_AFTER[action]
        event = (await bench.bus.get_audit_trail(command_id))[-1]
        assert event.event_type == f"OPERATOR_{action.upper()}"
        assert event.details == {"operator": "ann", "reason": "all of them"}
    assert await bench.trail(done) == ["SENT", "RECEIVED", "COMPLETED"]
    assert await bench.trail(waiting) == ["SENT"]


async def test_no_ids_are_nothing_to_do(bench: Bench) -> None:
    assert await operators(bench).operator_retry_many([]) == BulkResult(0)


@pytest.mark.parametrize("step", ["Reserve", "Ship", "Refund"])
@pytest.mark.parametrize("action", ACTIONS)
async def test_many_become_what_one_by_one_would_make_of_them(bench: Bench, action: str, step: str) -> None:
    """At the first step, at the last one, and in the middle of compensating."""
    manager = make_manager(bench)
    tsq = operators(bench, manager)
    async with open_hand(bench, manager) as hand:
        groups = []
        for _ in range(3):
            groups.append(await park_processes(bench, hand, manager, 4, "Ship" if step == "Refund" else step))
            if step == "Refund":
                await tsq.operator_cancel_many(await parked_of(bench, groups[-1]), operator="ann")
                await hand.settle(*[(claimed, BROKEN) for claimed in await hand.claim(4)])
        for command_id in await parked_of(bench, groups[0]):
            arguments = [{"by": "ann"}] if action == "complete" else []
            await getattr(tsq, f"operator_{action}")(command_id, *arguments, operator="ann", reason="all of them")
        await act(tsq, action, "many", await parked_of(bench, groups[1]))
        await act(tsq, action, "where", TroubleshootingFilter(domain=bench.domain))
    one_by_one, many, where = [await bench.execute(OUTCOME, group, group) for group in groups]
    assert many == one_by_one
    assert where == one_by_one
    assert all("IN_TROUBLESHOOTING_QUEUE" not in row[7] for row in one_by_one)


async def test_after_a_bulk_cancel_the_processes_undo_their_steps(bench: Bench) -> None:
    manager = make_manager(bench)
    async with open_hand(bench, manager) as hand:
        process_ids = await park_processes(bench, hand, manager, 3, "Ship")
        await act(operators(bench, manager), "cancel", "where", TroubleshootingFilter(domain=bench.domain))
        for step in ("Refund", "Return"):
            claims = await hand.claim(3)
            assert [claimed.step for claimed in claims] == [step] * 3
            await hand.settle(*[(claimed, {}) for claimed in claims])
    for process_id in process_ids:
        process = await process_of(bench, process_id)
        assert (process.status, process.error_code) == (ProcessStatus.COMPENSATED, "CANCELED")


async def test_a_hook_that_fails_for_one_process_does_not_stop_its_neighbours(bench: Bench) -> None:
    calls: list[int] = []

    async def refuse_two(self: Any, items: Any, conn: Any) -> None:
        calls.append(len(items))
        if any(item.step == "Pay" and item.process.state["order"] == 2 for item in items):
            raise LookupError("no account for order 2")

    manager = make_manager(bench, before_send_commands=refuse_two)
    async with open_hand(bench, manager) as hand:
        process_ids = await park_processes(bench, hand, manager, 5)
        calls.clear()
        result = await act(operators(bench, manager), "complete", "many", await parked_of(bench, process_ids))
    assert result == BulkResult(5)
    assert calls == [5, 1, 1, 1, 1, 1]
    processes = [await process_of(bench, process_id) for process_id in process_ids]
    assert [process.status for process in processes] == [
        ProcessStatus.FAILED if order == 2 else ProcessStatus.WAITING_FOR_REPLY for order in range(5)
    ]
    assert "no account for order 2" in str(processes[2].error_message)
    assert [len(await steps_of(bench, process_id)) for process_id in process_ids] == [2, 2, 1, 2, 2]


async def test_a_hook_is_called_once_for_a_chunk(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "CHUNK", 3)
    calls: list[int] = []

    async def record(self: Any, items: Any, conn: Any) -> None:
        calls.append(len(items))

    manager = make_manager(bench, before_send_commands=record)
    tsq = operators(bench, manager)
    async with open_hand(bench, manager) as hand:
        process_ids = await park_processes(bench, hand, manager, 7)
        calls.clear()
        assert await act(tsq, "complete", "many", await parked_of(bench, process_ids)) == BulkResult(7)
        assert calls == [3, 3, 1]
        await hand.settle(*[(claimed, BROKEN) for claimed in await hand.claim(7)])
        calls.clear()
        assert await act(tsq, "complete", "where", TroubleshootingFilter(bench.domain)) == BulkResult(7)
        assert calls == [3, 3, 1]


async def test_each_process_has_the_operators_result_to_itself(bench: Bench) -> None:
    def count_up(self: Any, state: Any, step: str, response: Any) -> None:
        response.result["list"].append(state.order)
        state.results.append(response.result)

    manager = make_manager(bench, update_state=count_up)
    tsq = operators(bench, manager)
    async with open_hand(bench, manager) as hand:
        process_ids = await park_processes(bench, hand, manager, 3)
        result: dict[str, Any] = {"list": []}
        await tsq.operator_complete_many(await parked_of(bench, process_ids), result)
    states = [(await process_of(bench, process_id)).state["results"] for process_id in process_ids]
    assert states == [[{"list": [0]}], [{"list": [1]}], [{"list": [2]}]]
    assert result == {"list": []}


async def test_processes_of_several_managers_and_of_none_in_one_call(bench: Bench) -> None:
    """Those at hand go on at once; a reply is left for the others, and for whoever asked for one."""
    ours = make_manager(bench)
    theirs = make_manager(bench, process_type=f"Their-{bench.domain[1:9]}")
    async with open_hand(bench, ours, theirs) as hand:
        of_ours = await park_processes(bench, hand, ours, 2)
        of_theirs = await park_processes(bench, hand, theirs, 2)
        asked = await bench.send("Reserve", reply_to="desk", correlation_id=uuid4())
        silent = await bench.send("Reserve")
        await hand.settle(*[(claimed, BROKEN) for claimed in await hand.claim(2)])
        everything = TroubleshootingFilter(domain=bench.domain)
        assert await act(operators(bench, ours), "complete", "where", everything) == BulkResult(6)
    assert [(await process_of(bench, p)).current_step for p in of_ours] == ["Pay", "Pay"]
    assert [(await process_of(bench, p)).current_step for p in of_theirs] == ["Reserve", "Reserve"]
    rows = await bench.execute(
        "SELECT reply_to, outcome, result, process_id FROM commandbus.reply WHERE command_id = ANY(%s)",
        [asked, silent, *await parked_of(bench, [*of_ours, *of_theirs])],
    )
    address, by = f"process:{theirs.process_type}", {"by": "ann"}
    assert sorted(rows, key=str) == sorted(
        [("desk", "SUCCESS", by, None), *[(address, "SUCCESS", by, process) for process in of_theirs]], key=str
    )


async def test_a_filter_takes_what_all_of_it_applies_to(bench: Bench) -> None:
    manager = make_manager(bench)
    tsq = operators(bench, manager)
    ((start,),) = await bench.execute("SELECT commandbus.now()")  # tests before this one have moved the clock
    processes = await bench.bus.create_process_batch(bench.domain, 1)
    commands = await bench.bus.create_batch(bench.domain, [BatchCommand("Pay", uuid4(), {})])
    async with open_hand(bench, manager) as hand:
        (in_batch,) = [claimed.command_id for claimed in await hand.claim()]
        await bench.skip(31)
        await hand.turn(BROKEN)
        await manager.start({}, batch_id=processes)
        in_process = (await hand.turn(BROKEN)).command_id
        (early,) = await park(bench, hand, 1, "Reserve")
        await bench.skip(3_600)
        (late,) = await park(bench, hand, 1, "Reserve")
        (other,) = await park(bench, hand, 1, "Pay", PermanentCommandError("NO_ACCOUNT"))

    (moved,) = [item.moved_at for item in await items(tsq, bench) if item.command_id == late]

    async def found(**where: Any) -> set[UUID]:
        chosen = TroubleshootingFilter(**({"domain": bench.domain} | where))
        ids = {item.command_id for item in (await tsq.list_troubleshooting(where=chosen)).items}
        assert await tsq.count_troubleshooting(where=chosen) == len(ids)
        return ids

    assert await found() == {in_batch, in_process, early, late, other}
    assert await found(domain="elsewhere") == set()
    assert await found(command_type="Pay") == {in_batch, other}
    assert await found(error_code="NO_ACCOUNT") == {other}
    assert await found(command_type="Reserve", error_code="NO_ACCOUNT") == set()
    assert await found(batch_id=commands) == {in_batch}
    assert await found(batch_id=processes) == {in_process}
    assert await found(batch_id=uuid4()) == set()
    assert await found(moved_after=moved) == {late, other}
    assert await found(moved_before=moved) == {in_batch, in_process, early}
    assert await found(moved_after=start, moved_before=start + timedelta(hours=1)) == {in_batch, in_process, early}
    await act(
        tsq, "retry", "where", TroubleshootingFilter(bench.domain, "Reserve", moved_before=start + timedelta(hours=1))
    )
    assert [str((await bench.bus.get_command(c)).status) for c in (in_process, early, late, other)] == [
        "PENDING", "PENDING", PARKED, PARKED,
    ]  # fmt: skip


async def test_an_action_by_filter_that_broke_off_has_done_whole_chunks_and_can_go_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "CHUNK", 2)
    tsq = operators(bench)
    told: list[int] = []

    def break_off(done: int) -> None:
        told.append(done)
        if done == 4:
            raise KeyboardInterrupt

    async with open_hand(bench) as hand:
        parked = await park(bench, hand, 7)
    where = TroubleshootingFilter(domain=bench.domain)
    with pytest.raises(KeyboardInterrupt):
        await tsq.operator_cancel_where(where, on_progress=break_off)
    assert (told, await tsq.count_troubleshooting(bench.domain)) == ([2, 4], 3)
    assert await tsq.operator_cancel_where(where, on_progress=told.append) == BulkResult(3)
    assert told == [2, 4, 2, 3]
    assert {(await bench.bus.get_command(command_id)).status for command_id in parked} == {CommandStatus.CANCELED}


@pytest.mark.parametrize("action", ACTIONS)
async def test_many_in_a_transaction_that_is_rolled_back_change_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setattr(bulk, "CHUNK", 2)
    manager = make_manager(bench)
    async with open_hand(bench, manager) as hand:
        process_ids = await park_processes(bench, hand, manager, 5)
    parked = await parked_of(bench, process_ids)
    before = await bench.execute(OUTCOME, process_ids, process_ids)
    async with bench.pool.connection() as conn:
        assert await act(operators(bench, manager), action, "many", parked, conn=conn) == BulkResult(5)
        await conn.rollback()
    assert await bench.execute(OUTCOME, process_ids, process_ids) == before


async def test_a_result_that_is_no_json_object_is_refused_before_anything_changes(bench: Bench) -> None:
    tsq = operators(bench)
    async with open_hand(bench) as hand:
        parked = await park(bench, hand, 2)
    for how, what in (("many", parked), ("where", TroubleshootingFilter(bench.domain))):
        with pytest.raises(InvalidPayloadError, match="result"):
            await getattr(tsq, f"operator_complete_{how}")(what, {"x": float("nan")})
    assert await tsq.count_troubleshooting(bench.domain) == 2


async def test_a_filter_that_cannot_be_meant_is_refused(bench: Bench) -> None:
    tsq = operators(bench)
    with pytest.raises(InvalidNameError, match="domain"):
        await tsq.operator_retry_where(TroubleshootingFilter(domain="no such domain"))
    with pytest.raises(InvalidNameError, match="command type"):
        await tsq.count_troubleshooting(command_type="")
    with pytest.raises(ValueError, match=r"moved_before needs a time zone, as in datetime\.now\(UTC\)"):
        await tsq.operator_retry_where(TroubleshootingFilter(moved_before=datetime(2026, 1, 1)))  # noqa: DTZ001
    for ask in (tsq.count_troubleshooting, tsq.list_troubleshooting):
        with pytest.raises(ValueError, match="inside of where"):
            await ask(bench.domain, where=TroubleshootingFilter())
