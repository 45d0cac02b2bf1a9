"""Cancelling a process: unclaimed commands are taken back, one in flight ends first, all that was done is undone."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from commandbus import (
    BusinessRuleError,
    CommandStatus,
    InvalidOperationError,
    PermanentCommandError,
    ProcessNotFoundError,
    TransientCommandError,
)
from commandbus.process import ProcessMetadata, ProcessReplyRouter, ProcessRepository, ProcessStatus
from tests.integration.process_kit import Hand, make_manager, open_hand, process_of, steps_of
from tests.integration.worker_kit import Bench

pytestmark = pytest.mark.asyncio

REFUSED = BusinessRuleError("NO_SHIP", "no ship sails there")
BROKEN = PermanentCommandError("BROKEN", "out of order")
BUSY = TransientCommandError("BUSY", "try again")
WHO = {"operator": "ann", "reason": "changed her mind"}
CANCELLED = ("CANCELED", "cancelled by ann: changed her mind")


async def ended(bench: Bench, process_id: UUID) -> tuple[str, str | None, str | None]:
    process = await process_of(bench, process_id)
    assert process.status.is_terminal is (process.completed_at is not None)
    return str(process.status), process.error_code, process.error_message


async def undo_all(hand: Hand, *steps: str) -> None:
    """Carry out just these undo steps, and see that nothing is left to do."""
    for step in steps:
        await hand.turn(step=step)
    assert await hand.claim() == []


async def test_what_nobody_claimed_is_canceled_at_once(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    assert await manager.cancel_process(process_id, **WHO) is True
    assert await ended(bench, process_id) == ("CANCELED", *CANCELLED)
    (entry,) = await ProcessRepository(bench.pool).get_audit_trail(process_id)
    assert (entry.status, entry.error_code, entry.error_message) == (CommandStatus.CANCELED, *CANCELLED)
    events = await bench.bus.get_audit_trail(entry.command_id)
    assert [e.event_type for e in events] == ["SENT", "CANCELED"]
    assert (events[1].details, events[1].epoch, events[1].worker_id) == (WHO, 0, None)
    async with open_hand(bench, manager) as hand:
        assert await hand.claim() == []


async def test_completed_steps_are_undone_in_reverse_order(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        reserve, pay = await hand.turn(step="Reserve"), await hand.turn(step="Pay")
        assert await manager.cancel_process(process_id, **WHO) is True
        process = await process_of(bench, process_id)
        assert (process.status, process.current_step) == (ProcessStatus.COMPENSATING, "Refund")
        assert (await hand.turn(step="Refund")).compensates == pay.command_id
        assert (await hand.turn(step="Return")).compensates == reserve.command_id
        assert await hand.claim() == []
    assert await ended(bench, process_id) == ("COMPENSATED", *CANCELLED)
    assert await steps_of(bench, process_id) == [
        ("Reserve", 1, "COMPLETED"), ("Pay", 1, "COMPLETED"), ("Ship", 1, "CANCELED"),
        ("Refund", 1, "COMPLETED"), ("Return", 1, "COMPLETED"),
    ]  # fmt: skip


async def test_a_retry_that_waits_is_canceled(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        await hand.turn(step="Reserve")
        waiting = await hand.turn(BUSY, step="Pay")
        assert await manager.cancel_process(process_id) is True
        await undo_all(hand, "Return")
    assert await ended(bench, process_id) == ("COMPENSATED", "CANCELED", "cancelled by unknown")
    assert await bench.trail(waiting.command_id) == ["SENT", "RECEIVED", "RETRY_SCHEDULED", "CANCELED"]
    assert (await bench.bus.get_command(waiting.command_id)).attempts == 1


async def test_a_parked_command_is_canceled_as_an_operator_would(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        await hand.turn(step="Reserve")
        parked = await hand.turn(BROKEN, step="Pay")
        assert await manager.cancel_process(process_id, **WHO) is True
        await undo_all(hand, "Return")
    assert await ended(bench, process_id) == ("COMPENSATED", *CANCELLED)
    assert (await bench.trail(parked.command_id))[-2:] == ["MOVED_TO_TSQ", "OPERATOR_CANCEL"]


@pytest.mark.parametrize("is_routed", [False, True], ids=["manager here", "manager elsewhere"])
async def test_one_in_flight_ends_first_and_is_undone_with_the_others(bench: Bench, is_routed: bool) -> None:
    manager = make_manager(bench)
    router = ProcessReplyRouter([manager], bench.pool)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand, open_hand(bench) as stranger:
        reserve = await hand.turn({"n": 1}, step="Reserve")
        worker = stranger if is_routed else hand
        (pay,) = await worker.claim()
        assert await manager.cancel_process(process_id, **WHO) is False
        process = await process_of(bench, process_id)
        assert (process.status, process.current_step) == (ProcessStatus.WAITING_FOR_REPLY, "Pay")
        assert (await bench.bus.get_command(pay.command_id)).status is CommandStatus.IN_PROGRESS
        assert await worker.settle((pay, {"n": 2})) == set()
        assert await router.route() == int(is_routed)
        process = await process_of(bench, process_id)
        assert (process.status, process.current_step) == (ProcessStatus.COMPENSATING, "Refund")
        assert process.state["results"] == [{"n": 1}, {"n": 2}]
        assert (await hand.turn(step="Refund")).compensates == pay.command_id
        assert (await hand.turn(step="Return")).compensates == reserve.command_id
        assert await hand.claim() == []
    assert await ended(bench, process_id) == ("COMPENSATED", *CANCELLED)
    assert await bench.trail(pay.command_id) == ["SENT", "RECEIVED", "COMPLETED"]


@pytest.mark.parametrize("is_routed", [False, True], ids=["manager here", "manager elsewhere"])
@pytest.mark.parametrize("error", [BUSY, BROKEN, OSError("no route")], ids=["transient", "permanent", "unexpected"])
async def test_one_in_flight_that_fails_is_canceled_without_retry_or_operator(
    bench: Bench, error: Exception, is_routed: bool
) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand, open_hand(bench) as stranger:
        await hand.turn(step="Reserve")
        worker = stranger if is_routed else hand
        (pay,) = await worker.claim()
        await manager.cancel_process(process_id, **WHO)
        assert await worker.settle((pay, error)) == set()
        assert await ProcessReplyRouter([manager], bench.pool).route() == int(is_routed)
        await undo_all(hand, "Return")
        events = await bench.bus.get_audit_trail(pay.command_id)
        assert [e.event_type for e in events] == ["SENT", "RECEIVED", "CANCELED"]
        assert (events[2].epoch, events[2].worker_id, events[2].attempt) == (1, worker.worker_id, 1)
    assert events[2].details["type"] == type(error).__name__
    assert {"operator": "ann", "reason": "changed her mind"}.items() <= events[2].details.items()
    command = await bench.bus.get_command(pay.command_id)
    assert (command.status, command.error_code, command.error_message) == (CommandStatus.CANCELED, *CANCELLED)
    assert await ended(bench, process_id) == ("COMPENSATED", *CANCELLED)


@pytest.mark.parametrize("is_routed", [False, True], ids=["manager here", "manager elsewhere"])
async def test_a_business_rule_in_flight_ends_the_process_as_ever(bench: Bench, is_routed: bool) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand, open_hand(bench) as stranger:
        await hand.turn(step="Reserve")
        worker = stranger if is_routed else hand
        (pay,) = await worker.claim()
        await manager.cancel_process(process_id, **WHO)
        await worker.settle((pay, REFUSED))
        await ProcessReplyRouter([manager], bench.pool).route()
        await undo_all(hand, "Return")
    assert await ended(bench, process_id) == ("CANCELED", "NO_SHIP", "no ship sails there")


async def test_the_last_step_in_flight_does_not_complete_the_process(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({"path": ["Reserve"]})
    async with open_hand(bench, manager) as hand:
        (reserve,) = await hand.claim()
        await manager.cancel_process(process_id, **WHO)
        await hand.settle((reserve, {}))
        await undo_all(hand, "Return")
    assert await ended(bench, process_id) == ("COMPENSATED", *CANCELLED)


async def test_one_in_flight_without_an_undo_leaves_nothing_to_undo(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({"path": ["Ship", "Pay"]})
    async with open_hand(bench, manager) as hand:
        (ship,) = await hand.claim()
        await manager.cancel_process(process_id, **WHO)
        await hand.settle((ship, {"sailed": True}))
        assert await hand.claim() == []
    assert await ended(bench, process_id) == ("CANCELED", *CANCELLED)
    assert (await process_of(bench, process_id)).state["results"] == [{"sailed": True}]


async def test_neighbours_in_the_same_settle_go_on(bench: Bench) -> None:
    manager = make_manager(bench)
    ids = [await manager.start({"order": n}) for n in range(5)]
    async with open_hand(bench, manager) as hand:
        claims = await hand.claim(5)
        await manager.cancel_process(ids[1], **WHO)
        await manager.cancel_process(ids[3], **WHO)
        ends: list[Any] = [{}, {}, BUSY, BUSY, {}]
        assert await hand.settle(*zip(claims, ends, strict=True)) == set()
    steps = [await steps_of(bench, i) for i in ids]
    done, next_step = ("Reserve", 1, "COMPLETED"), ("Pay", 1, "PENDING")
    assert [steps[0], steps[2], steps[4]] == [[done, next_step], [("Reserve", 1, "PENDING")], [done, next_step]]
    assert steps[1] == [done, ("Return", 1, "PENDING")]
    assert steps[3] == [("Reserve", 1, "CANCELED")]


# Hooks and decisions that fail.


async def test_hooks_see_the_undo_and_nothing_that_is_not_sent(bench: Bench) -> None:
    seen: list[str] = []

    async def hook(self: Any, items: Any, conn: Any) -> None:
        seen.extend(item.step for item in items)

    manager = make_manager(bench, before_send_commands=hook)
    ids = [await manager.start({}), await manager.start({})]
    async with open_hand(bench, manager) as hand:
        claims = await hand.claim(2)
        await manager.cancel_process(ids[0], **WHO)
        assert await hand.settle(*[(claimed, {}) for claimed in claims]) == set()
        assert seen == ["Reserve", "Reserve", "Pay", "Return"]
        assert await manager.cancel_process(ids[1], **WHO) is True
        assert seen[4:] == ["Return"]
        assert (await hand.claim(5))[0].step == "Return"


@pytest.mark.parametrize("breaks", ["before_send_commands", "get_compensation_step", "build_command", "update_state"])
async def test_what_breaks_on_the_way_fails_that_one_process(bench: Bench, breaks: str) -> None:
    broken: set[UUID] = set()

    async def hook(self: Any, items: Any, conn: Any) -> None:
        if any(item.process.state["order"] == 1 for item in items) and broken:
            raise RuntimeError("broken")

    def method(self: Any, first: Any, second: Any = None, third: Any = None) -> Any:
        given = (first, second) if breaks == "update_state" else (second, first)
        base = super(type(self), self)
        if broken and (breaks == "get_compensation_step" or getattr(given[0], "order", 1) == 1):
            raise RuntimeError("broken")
        arguments = [a for a in (first, second, third) if a is not None]
        return getattr(base, breaks)(*arguments)

    changes = {breaks: hook if breaks == "before_send_commands" else method}
    manager = make_manager(bench, **changes)
    ids = [await manager.start({"order": n}) for n in (1, 2)]
    async with open_hand(bench, manager) as hand:
        claims = await hand.claim(2)
        await manager.cancel_process(ids[0], **WHO)
        broken.add(ids[0])
        assert await hand.settle(*[(claimed, {}) for claimed in claims]) == set()
    status, code, message = await ended(bench, ids[0])
    assert (status, code) == ("FAILED", "PROCESS_DECISION_FAILED")
    assert f"{breaks} raised RuntimeError: broken" in (message or "")
    assert (await process_of(bench, ids[1])).current_step == "Pay"


async def test_a_cancel_whose_hook_breaks_fails_the_process_and_cancels_the_command(bench: Bench) -> None:
    async def hook(self: Any, items: Any, conn: Any) -> None:
        if any(item.step == "Return" for item in items):
            raise RuntimeError("broken")

    manager = make_manager(bench, before_send_commands=hook)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        await hand.turn(step="Reserve")
        assert await manager.cancel_process(process_id, **WHO) is True
    assert (await ended(bench, process_id))[0] == "FAILED"
    assert await steps_of(bench, process_id) == [("Reserve", 1, "COMPLETED"), ("Pay", 1, "CANCELED")]


# What cannot be cancelled.


async def test_a_process_that_nobody_knows(bench: Bench) -> None:
    with pytest.raises(ProcessNotFoundError):
        await make_manager(bench).cancel_process(uuid4())


async def test_a_process_of_another_type(bench: Bench) -> None:
    process_id = await make_manager(bench).start({})
    stranger = make_manager(bench, process_type=f"stranger-{bench.domain[1:13]}")
    with pytest.raises(InvalidOperationError, match="ask its own manager"):
        await stranger.cancel_process(process_id)
    assert (await process_of(bench, process_id)).status is ProcessStatus.WAITING_FOR_REPLY


async def test_a_process_that_ended_or_undoes_its_steps(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        await hand.turn(step="Reserve")
        await hand.turn(REFUSED, step="Pay")
        before = await process_of(bench, process_id)
        with pytest.raises(InvalidOperationError, match="is COMPENSATING: it undoes its steps already"):
            await manager.cancel_process(process_id)
        (undo,) = await hand.claim()
        with pytest.raises(InvalidOperationError, match="is COMPENSATING"):
            await manager.cancel_process(process_id)
        assert await process_of(bench, process_id) == before
        await hand.settle((undo, {}))
        ended_so = await process_of(bench, process_id)
        with pytest.raises(InvalidOperationError, match="is CANCELED; only one that has not ended"):
            await manager.cancel_process(process_id)
        assert await process_of(bench, process_id) == ended_so


async def test_a_second_cancel_is_told_of_the_first(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        (reserve,) = await hand.claim()
        await manager.cancel_process(process_id, **WHO)
        with pytest.raises(InvalidOperationError, match="to be cancelled already, by ann: its command in flight"):
            await manager.cancel_process(process_id, operator="bob")
        await hand.settle((reserve, {}))
        await undo_all(hand, "Return")
    assert await ended(bench, process_id) == ("COMPENSATED", *CANCELLED)


async def test_a_process_that_was_kept_without_a_command(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = uuid4()
    await ProcessRepository(bench.pool).save(ProcessMetadata(process_id, bench.domain, manager.process_type))
    assert await manager.cancel_process(process_id, **WHO) is True
    assert await ended(bench, process_id) == ("CANCELED", *CANCELLED)
    assert (await process_of(bench, process_id)).current_step is None


async def test_whatever_an_operator_types_is_stored(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    await manager.cancel_process(process_id, operator="\0" + "x" * 500, reason="\ud800" + "y" * 5_000)
    _, code, message = await ended(bench, process_id)
    assert (code, len(message or "") <= 2_000) == ("CANCELED", True)


# Transactions.


async def test_a_process_may_be_cancelled_in_the_transaction_that_starts_it(bench: Bench) -> None:
    manager = make_manager(bench)
    async with bench.pool.connection() as conn:
        process_id = await manager.start({}, conn=conn)
        with pytest.raises(ProcessNotFoundError):
            await manager.cancel_process(process_id)
        assert await manager.cancel_process(process_id, **WHO, conn=conn) is True
    assert await ended(bench, process_id) == ("CANCELED", *CANCELLED)


async def test_a_start_that_a_cancelled_batch_refuses_leaves_the_callers_transaction_whole(bench: Bench) -> None:
    manager = make_manager(bench)
    batch_id = await bench.bus.create_process_batch(bench.domain, 2)
    await bench.bus.cancel_batch(bench.domain, batch_id)
    async with bench.pool.connection() as conn:
        before = await manager.start({}, conn=conn)
        with pytest.raises(InvalidOperationError, match="was cancelled"):
            await manager.start({}, batch_id, conn)
        await manager.cancel_process(before, **WHO, conn=conn)
    assert await ended(bench, before) == ("CANCELED", *CANCELLED)


async def test_a_rollback_takes_the_cancel_back(bench: Bench) -> None:
    manager = make_manager(bench)
    ids = [await manager.start({}) for _ in range(2)]
    async with open_hand(bench, manager) as hand:
        (claimed,) = await hand.claim()
        async with bench.pool.connection() as conn:
            assert await manager.cancel_process(ids[0], conn=conn) is False
            assert await manager.cancel_process(ids[1], conn=conn) is True
            await conn.rollback()
        await hand.settle((claimed, {}))
        assert [c.step for c in await hand.claim(5)] == ["Reserve", "Pay"]
