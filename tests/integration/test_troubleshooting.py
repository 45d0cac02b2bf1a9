"""What operators do with parked commands, and what becomes of their processes."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from commandbus import (
    BusinessRuleError,
    CommandNotFoundError,
    CommandStatus,
    InvalidOperationError,
    PermanentCommandError,
    TransientCommandError,
)
from commandbus.errors import InvalidPayloadError
from commandbus.process import ProcessStatus
from tests.integration.process_kit import Hand, make_manager, open_hand, operators, process_of, steps_of
from tests.integration.worker_kit import Bench, eventually

pytestmark = pytest.mark.asyncio

PARKED = CommandStatus.IN_TROUBLESHOOTING_QUEUE
BROKEN = PermanentCommandError("BROKEN", "out of order")
BUSY = TransientCommandError("BUSY", "later")
ACTIONS = ["operator_retry", "operator_cancel", "operator_complete"]
PLACES = """
    SELECT (SELECT count(*) FROM commandbus.queue WHERE command_id = c.command_id),
           (SELECT count(*) FROM commandbus.scheduled WHERE command_id = c.command_id),
           (SELECT count(*) FROM commandbus.troubleshooting WHERE command_id = c.command_id)
      FROM commandbus.command c WHERE c.command_id = %s"""


async def park(bench: Bench, hand: Hand, **options: Any) -> UUID:
    """Send a plain command and have it parked."""
    command_id = await bench.send("Reserve", {"order": 7}, **options)
    await hand.turn(BROKEN)
    return command_id


async def test_a_parked_command_of_a_process_makes_it_wait(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        parked = await hand.turn(BROKEN, step="Reserve")
    process = await process_of(bench, process_id)
    assert (process.status, process.current_step) == (ProcessStatus.WAITING_FOR_TSQ, "Reserve")
    assert (process.completed_at, process.error_code) == (None, None)
    assert await bench.execute(PLACES, parked.command_id) == [(0, 0, 1)]
    assert await steps_of(bench, process_id) == [("Reserve", 1, "IN_TROUBLESHOOTING_QUEUE")]


async def test_a_swept_command_of_a_process_makes_it_wait_too(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        for _ in range(3):
            (claimed,) = await hand.claim(lease=30)
            await bench.skip(31)
        assert await bench.execute("SELECT commandbus.sweep(%s, NULL)", bench.domain) == [(1,)]
        assert (await process_of(bench, process_id)).status is ProcessStatus.WAITING_FOR_TSQ
        await operators(bench, manager).operator_retry(claimed.command_id)
        (again,) = await hand.claim()
        assert (again.lost_leases, again.failures, again.epoch) == (0, 0, 4)
        await hand.settle((again, {}))
    assert (await process_of(bench, process_id)).current_step == "Pay"


async def test_a_retry_begins_a_new_life_with_attempts_from_0(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    tsq = operators(bench, manager)
    async with open_hand(bench, manager) as hand:
        for life in range(3):
            for failures in range(3):
                (claimed,) = await hand.claim()
                assert (claimed.failures, claimed.past_failures) == (failures, 3 * life)
                assert (claimed.epoch, claimed.max_attempts) == (3 * life + failures + 1, 3)
                await hand.settle((claimed, BUSY))
            command = await bench.bus.get_command(claimed.command_id)
            assert (command.status, command.attempts, command.error_code) == (PARKED, 3, "BUSY")
            assert (await process_of(bench, process_id)).status is ProcessStatus.WAITING_FOR_TSQ
            await tsq.operator_retry(claimed.command_id, operator="ann", reason=f"life {life}")
            command = await bench.bus.get_command(claimed.command_id)
            assert (command.status, command.attempts, command.error_code) == (CommandStatus.PENDING, 0, None)
            assert await bench.execute(PLACES, claimed.command_id) == [(1, 0, 0)]
            process = await process_of(bench, process_id)
            assert (process.status, process.current_step) == (ProcessStatus.WAITING_FOR_REPLY, "Reserve")
        await hand.turn({"n": 1}, step="Reserve")
    assert (await process_of(bench, process_id)).state["results"] == [{"n": 1}]
    retries = [e for e in await bench.bus.get_audit_trail(claimed.command_id) if e.event_type == "OPERATOR_RETRY"]
    assert [e.details for e in retries] == [{"operator": "ann", "reason": f"life {life}"} for life in range(3)]


async def test_a_complete_goes_on_with_the_operators_result(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        parked = await hand.turn(BROKEN, step="Reserve")
        await operators(bench, manager).operator_complete(
            parked.command_id, {"shelf": 9}, operator="ann", reason="found it"
        )
        process = await process_of(bench, process_id)
        assert (process.status, process.current_step) == (ProcessStatus.WAITING_FOR_REPLY, "Pay")
        assert process.state["results"] == [{"shelf": 9}]
        command = await bench.bus.get_command(parked.command_id)
        assert (command.status, command.result, command.error_code) == (CommandStatus.COMPLETED, {"shelf": 9}, None)
        assert command.completed_at is not None
        assert await bench.execute(PLACES, parked.command_id) == [(0, 0, 0)]
        event = (await bench.bus.get_audit_trail(parked.command_id))[-1]
        assert (event.event_type, event.details) == ("OPERATOR_COMPLETE", {"operator": "ann", "reason": "found it"})
        await hand.turn({}, step="Pay")
        await hand.turn({}, step="Ship")
    assert (await process_of(bench, process_id)).status is ProcessStatus.COMPLETED


async def test_a_complete_of_the_last_step_completes_the_process(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({"path": ["Reserve"]})
    async with open_hand(bench, manager) as hand:
        parked = await hand.turn(BROKEN)
    await operators(bench, manager).operator_complete(parked.command_id)
    process = await process_of(bench, process_id)
    assert (process.status, process.state["results"]) == (ProcessStatus.COMPLETED, [None])


async def test_a_manager_that_breaks_on_an_operators_result_fails_its_process_not_the_operator(bench: Bench) -> None:
    def breaks(self: Any, state: Any, step: str, response: Any) -> None:
        raise ZeroDivisionError("in update_state")

    manager = make_manager(bench, update_state=breaks)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        parked = await hand.turn(BROKEN)
    await operators(bench, manager).operator_complete(parked.command_id, {})
    process = await process_of(bench, process_id)
    assert (process.status, process.error_code) == (ProcessStatus.FAILED, "PROCESS_DECISION_FAILED")
    assert (await bench.bus.get_command(parked.command_id)).status is CommandStatus.COMPLETED


async def test_hooks_run_for_what_an_operators_action_sends(bench: Bench) -> None:
    hooked: list[str] = []

    async def record(self: Any, items: Any, conn: Any) -> None:
        hooked.extend(item.step for item in items)

    manager = make_manager(bench, before_send_commands=record)
    await manager.start({})
    async with open_hand(bench, manager) as hand:
        first = await hand.turn(BROKEN)
        await operators(bench, manager).operator_complete(first.command_id)
        second = await hand.turn(BROKEN, step="Pay")
        await operators(bench, manager).operator_cancel(second.command_id)
        await hand.turn(step="Return")
    assert hooked == ["Reserve", "Pay", "Return"]


@pytest.mark.parametrize("action", ACTIONS)
async def test_only_a_parked_command_can_be_operated_on(bench: Bench, action: str) -> None:
    tsq = operators(bench)
    act = getattr(tsq, action)
    async with open_hand(bench) as hand:
        states = {}
        for status in ("FAILED", "COMPLETED", "IN_PROGRESS", "PENDING"):
            states[status] = await bench.send("Reserve")
            if status == "PENDING":
                continue
            (claimed,) = await hand.claim()
            if status != "IN_PROGRESS":
                await hand.settle((claimed, BusinessRuleError("NO") if status == "FAILED" else {}))
        for status, command_id in states.items():
            before = await bench.bus.get_command(command_id)
            with pytest.raises(InvalidOperationError, match=f"{command_id} is {status}; only one in the trouble"):
                await act(command_id)
            assert await bench.bus.get_command(command_id) == before
            assert "OPERATOR" not in str(await bench.trail(command_id))
    with pytest.raises(CommandNotFoundError):
        await act(uuid4())


@pytest.mark.parametrize("action", ACTIONS)
async def test_an_action_in_a_transaction_that_is_rolled_back_changes_nothing(bench: Bench, action: str) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        parked = await hand.turn(BROKEN)
    before = await process_of(bench, process_id), await bench.bus.get_command(parked.command_id)
    async with bench.pool.connection() as conn:
        await getattr(operators(bench, manager), action)(parked.command_id, conn=conn)
        assert (await bench.bus.get_command(parked.command_id, conn=conn)).status is not PARKED
        await conn.rollback()
    assert (await process_of(bench, process_id), await bench.bus.get_command(parked.command_id)) == before
    assert await bench.execute(PLACES, parked.command_id) == [(0, 0, 1)]


async def test_what_operators_write_is_stored_whatever_it_holds(bench: Bench) -> None:
    async with open_hand(bench) as hand:
        command_id = await park(bench, hand)
        await operators(bench).operator_cancel(command_id, operator="a\0nn\ud800", reason="x" * 5_000)
    event = (await bench.bus.get_audit_trail(command_id))[-1]
    assert event.details["operator"] == "a\\x00nn\\ud800"
    assert len(event.details["reason"]) == 2_000
    assert len((await bench.bus.get_command(command_id)).error_message or "") <= 2_000


async def test_a_result_that_is_no_json_object_is_refused_and_nothing_changes(bench: Bench) -> None:
    async with open_hand(bench) as hand:
        command_id = await park(bench, hand)
    for result in ({"x": float("nan")}, ["list"], {"x": b""}):
        with pytest.raises(InvalidPayloadError, match="result"):
            await operators(bench).operator_complete(command_id, result)  # type: ignore[arg-type]
    assert (await bench.bus.get_command(command_id)).status is PARKED
    assert (await bench.trail(command_id))[-1] == "MOVED_TO_TSQ"


async def test_an_operator_without_the_manager_leaves_the_reply_for_it(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        parked = await hand.turn(BROKEN)
        await operators(bench).operator_complete(parked.command_id, {"shelf": 9})
        rows = await bench.execute(
            "SELECT reply_to, outcome, result FROM commandbus.reply WHERE process_id = %s", process_id
        )
        assert rows == [(f"process:{manager.process_type}", "SUCCESS", {"shelf": 9})]
        async with bench.worker(processes=[manager]):

            async def advanced() -> bool | None:
                return (await process_of(bench, process_id)).state["results"] == [{"shelf": 9}] or None

            await eventually(advanced, "the process to go on")
