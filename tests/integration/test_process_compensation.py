"""Undoing: in reverse order of completion, one at a time, and what ends it."""

import sys
from typing import Any

import pytest

from commandbus import BusinessRuleError, CommandStatus, PermanentCommandError
from commandbus.process import ProcessCommand, ProcessRepository, ProcessStatus
from tests.integration.process_kit import Hand, OrderProcess, make_manager, open_hand, operators, process_of, steps_of
from tests.integration.worker_kit import Bench

pytestmark = pytest.mark.asyncio

REFUSED = BusinessRuleError("NO_SHIP", "no ship sails there")
BROKEN = PermanentCommandError("BROKEN", "out of order")
LIVE = """
    SELECT count(*) FROM commandbus.command
     WHERE process_id = %s AND status IN ('PENDING', 'IN_TROUBLESHOOTING_QUEUE')"""


async def live(bench: Bench, process_id: object) -> int:
    return int((await bench.execute(LIVE, process_id))[0][0])


async def test_a_business_rule_undoes_all_in_reverse_order_one_at_a_time(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({"order": 7})
    async with open_hand(bench, manager) as hand:
        reserve = await hand.turn({"n": 1}, step="Reserve")
        pay = await hand.turn({"n": 2}, step="Pay")
        ship = await hand.turn(REFUSED, step="Ship")
        for undone, step in ((pay, "Refund"), (reserve, "Return")):
            process = await process_of(bench, process_id)
            assert (process.status, process.current_step) == (ProcessStatus.COMPENSATING, step)
            assert (process.error_code, process.error_message) == ("NO_SHIP", "no ship sails there")
            assert process.completed_at is None
            assert await live(bench, process_id) == 1
            undo = await hand.turn({}, step=step)
            assert undo.compensates == undone.command_id
        assert await hand.claim() == []
    process = await process_of(bench, process_id)
    assert (process.status, process.error_code) == (ProcessStatus.CANCELED, "NO_SHIP")
    assert process.error_message == "no ship sails there"
    assert process.completed_at is not None
    assert process.state["results"] == [{"n": 1}, {"n": 2}]  # an undo's result is not taken into the state
    assert (await bench.bus.get_command(ship.command_id)).status is CommandStatus.FAILED


async def test_with_nothing_completed_a_business_rule_cancels_at_once(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        await hand.turn(REFUSED, step="Reserve")
        assert await hand.claim() == []
    process = await process_of(bench, process_id)
    assert (process.status, process.error_code) == (ProcessStatus.CANCELED, "NO_SHIP")
    assert process.completed_at is not None


async def test_a_step_without_an_undo_is_passed_over(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({"path": ["Reserve", "Ship", "Pay"]})
    async with open_hand(bench, manager) as hand:
        await hand.turn(step="Reserve")
        await hand.turn(step="Ship")
        await hand.turn(REFUSED, step="Pay")
        await hand.turn(step="Return")
    assert [step for step, _, _ in await steps_of(bench, process_id)] == ["Reserve", "Ship", "Pay", "Return"]
    assert (await process_of(bench, process_id)).status is ProcessStatus.CANCELED


async def test_a_cancelled_step_undoes_all_and_ends_compensated(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        await hand.turn(step="Reserve")
        parked = await hand.turn(BROKEN, step="Pay")
        assert (await process_of(bench, process_id)).status is ProcessStatus.WAITING_FOR_TSQ
        await operators(bench, manager).operator_cancel(parked.command_id, operator="ann", reason="no hope")
        process = await process_of(bench, process_id)
        assert (process.status, process.current_step) == (ProcessStatus.COMPENSATING, "Return")
        await hand.turn(step="Return")
    process = await process_of(bench, process_id)
    assert process.status is ProcessStatus.COMPENSATED
    assert (process.error_code, process.error_message) == ("CANCELED", "cancelled by ann: no hope")
    assert (await bench.bus.get_command(parked.command_id)).status is CommandStatus.CANCELED


async def test_a_cancelled_step_with_nothing_to_undo_ends_canceled(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        parked = await hand.turn(BROKEN, step="Reserve")
        await operators(bench, manager).operator_cancel(parked.command_id)
        assert await hand.claim() == []
    process = await process_of(bench, process_id)
    assert (process.status, process.error_message) == (ProcessStatus.CANCELED, "cancelled by unknown")


async def parked_undo(hand: Hand) -> object:
    """Take a process to where the first of its two undo steps is parked; returns that command's id."""
    await hand.turn(step="Reserve")
    await hand.turn(step="Pay")
    await hand.turn(REFUSED, step="Ship")
    parked = await hand.turn(BROKEN, step="Refund")
    return parked.command_id


async def test_a_parked_undo_waits_and_the_operators_complete_counts_as_undone(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        command_id = await parked_undo(hand)
        process = await process_of(bench, process_id)
        assert (process.status, process.current_step) == (ProcessStatus.WAITING_FOR_TSQ, "Refund")
        assert await live(bench, process_id) == 1
        await operators(bench, manager).operator_complete(command_id, {"by": "hand"}, operator="ann", reason="in cash")
        assert (await process_of(bench, process_id)).status is ProcessStatus.COMPENSATING
        await hand.turn(step="Return")
    process = await process_of(bench, process_id)
    assert (process.status, process.error_code) == (ProcessStatus.CANCELED, "NO_SHIP")


async def test_a_parked_undo_that_the_operator_cancels_fails_the_process(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        command_id = await parked_undo(hand)
        await operators(bench, manager).operator_cancel(command_id, operator="ann", reason="written off")
        assert await hand.claim() == []
    process = await process_of(bench, process_id)
    assert (process.status, process.error_code) == (ProcessStatus.FAILED, "UNDO_FAILED")
    assert process.error_message == "Refund was not undone: cancelled by ann: written off"
    assert await live(bench, process_id) == 0


async def test_a_parked_undo_that_the_operator_retries_goes_back_to_compensating(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        command_id = await parked_undo(hand)
        await operators(bench, manager).operator_retry(command_id, operator="ann")
        process = await process_of(bench, process_id)
        assert (process.status, process.current_step) == (ProcessStatus.COMPENSATING, "Refund")
        again = await hand.turn(step="Refund")
        assert (again.command_id, again.epoch) == (command_id, 2)
        await hand.turn(step="Return")
    assert (await process_of(bench, process_id)).status is ProcessStatus.CANCELED
    assert [s for s in await steps_of(bench, process_id) if s[0] == "Refund"] == [("Refund", 1, "COMPLETED")]


async def test_an_undo_that_the_business_refuses_fails_the_process(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        await hand.turn(step="Reserve")
        await hand.turn(REFUSED, step="Pay")
        await hand.turn(BusinessRuleError("KEPT", "we keep it"), step="Return")
    process = await process_of(bench, process_id)
    assert (process.status, process.error_code) == (ProcessStatus.FAILED, "UNDO_FAILED")
    assert process.error_message == "Return was not undone: we keep it"


async def test_a_step_that_an_operator_completed_is_undone_like_the_others(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        reserve = await hand.turn(BROKEN, step="Reserve")
        await operators(bench, manager).operator_complete(reserve.command_id, {"by": "hand"})
        await hand.turn(REFUSED, step="Pay")
        undo = await hand.turn(step="Return")
        assert undo.compensates == reserve.command_id
    assert (await process_of(bench, process_id)).status is ProcessStatus.CANCELED
    trail = await ProcessRepository(bench.pool).get_audit_trail(process_id)
    assert [(e.step, e.status) for e in trail] == [("Reserve", "COMPLETED"), ("Pay", "FAILED"), ("Return", "COMPLETED")]


async def test_an_undo_is_retried_like_any_command(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        await hand.turn(step="Reserve")
        await hand.turn(REFUSED, step="Pay")
        await hand.turn(ConnectionError("no answer"), step="Return")
        assert (await process_of(bench, process_id)).status is ProcessStatus.COMPENSATING
        await hand.turn(step="Return")
    assert (await process_of(bench, process_id)).status is ProcessStatus.CANCELED


BREAKAGES: dict[str, dict[str, Any]] = {
    "get_compensation_step raises": {"get_compensation_step": lambda state, step: 1 // 0},
    "get_compensation_step exits": {"get_compensation_step": lambda state, step: sys.exit(3)},
    "get_compensation_step gives no step": {"get_compensation_step": lambda state, step: 7},
    "build_command raises": {"build_command": lambda state, step: 1 // 0},
    "build_command gives nothing": {"build_command": lambda state, step: None},
    "build_command gives no JSON": {"build_command": lambda state, step: ProcessCommand("Return", {"x": float("nan")})},
    "build_command gives no name": {"build_command": lambda state, step: ProcessCommand("Return; --", {})},
    "build_command gives no attempts": {"build_command": lambda state, step: ProcessCommand("R", {}, max_attempts=0)},
}


@pytest.mark.parametrize("how", BREAKAGES)
@pytest.mark.parametrize("at", ["first undo", "second undo"])
async def test_an_undo_that_cannot_be_decided_fails_its_process_and_no_neighbour(
    bench: Bench, how: str, at: str
) -> None:
    """All of them in one settle."""
    ((name, broken),) = BREAKAGES[how].items()

    def method(self: Any, step: Any, state: Any = None) -> Any:
        is_due = step == ("Pay" if name == "get_compensation_step" else "Refund" if at == "first undo" else "Return")
        if is_due and self.breaks and (state is None or state.order == 1):
            return broken(state, step)
        return getattr(OrderProcess, name)(self, *([step] if state is None else [step, state]))

    manager = make_manager(bench, breaks=False, **{name: method})
    ids = [await manager.start({"order": n}) for n in range(3)]
    async with open_hand(bench, manager) as hand:
        for _ in range(2):
            await hand.settle(*[(claimed, {}) for claimed in await hand.claim(3)])
        type(manager).breaks = True
        ends: list[Any] = [REFUSED, REFUSED, {}] if name == "build_command" else [{}, REFUSED, {}]
        await hand.settle(*zip(await hand.claim(3), ends, strict=True))
        await hand.settle(*[(claimed, {}) for claimed in await hand.claim(3)])
        type(manager).breaks = False
        await hand.settle(*[(claimed, {}) for claimed in await hand.claim(3)])
    process = await process_of(bench, ids[1])
    assert (process.status, process.error_code) == (ProcessStatus.FAILED, "PROCESS_DECISION_FAILED")
    assert process.error_message
    assert await live(bench, ids[1]) == 0
    neighbours = [str((await process_of(bench, i)).status) for i in (ids[0], ids[2])]
    assert neighbours == ["CANCELED" if name == "build_command" else "COMPLETED", "COMPLETED"]


async def test_a_hook_that_refuses_an_undo_fails_its_process_and_no_neighbour(bench: Bench) -> None:
    async def hook(self: Any, process: Any, step: str, command_id: Any, payload: Any, conn: Any) -> None:
        if step == "Return" and process.state["order"] == 1:
            await conn.execute("SELECT 1 / 0")

    manager = make_manager(bench, before_send_command=hook)
    ids = [await manager.start({"order": n}) for n in range(3)]
    async with open_hand(bench, manager) as hand:
        await hand.settle(*[(claimed, {}) for claimed in await hand.claim(3)])
        await hand.settle(*[(claimed, REFUSED) for claimed in await hand.claim(3)])
        await hand.settle(*[(claimed, {}) for claimed in await hand.claim(3)])
    assert [str((await process_of(bench, i)).status) for i in ids] == ["CANCELED", "FAILED", "CANCELED"]
    message = (await process_of(bench, ids[1])).error_message
    assert message == "before_send_commands raised DivisionByZero: division by zero"
