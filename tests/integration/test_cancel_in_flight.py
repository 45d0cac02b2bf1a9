"""A command in flight whose process was cancelled: its worker dies, times out, or has done who knows what."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from commandbus import (
    CommandStatus,
    HandlerContext,
    InvalidOperationError,
    Middleware,
    RetryPolicy,
)
from commandbus.outcome import Outcome, completed, failed, handler_not_found
from commandbus.process import ProcessReplyRouter, ProcessRepository, ProcessStatus
from commandbus.repositories import queue
from commandbus.settlement import Finished
from tests.integration.process_kit import Hand, make_manager, open_hand, operators, process_of, steps_of
from tests.integration.test_cancel_process import BROKEN, BUSY, CANCELLED, REFUSED, WHO, ended, undo_all
from tests.integration.worker_kit import NEVER, Bench, eventually

pytestmark = pytest.mark.asyncio


async def test_a_command_of_a_dead_worker_is_run_again_and_undone(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as dead, open_hand(bench, manager) as hand:
        await dead.turn(step="Reserve")
        (lost,) = await dead.claim()
        await manager.cancel_process(process_id, **WHO)
        await bench.skip(31)
        (pay,) = await hand.claim()
        assert (pay.command_id, pay.epoch, pay.canceling) == (lost.command_id, 2, True)
        assert await dead.settle((lost, {})) == {lost.seq}
        assert await hand.settle((pay, {})) == set()
        await undo_all(hand, "Refund", "Return")
    assert await ended(bench, process_id) == ("COMPENSATED", *CANCELLED)
    assert await bench.trail(pay.command_id) == ["SENT", "RECEIVED", "RECEIVED", "LATE_OUTCOME_DROPPED", "COMPLETED"]


async def test_an_expired_lease_still_counts_as_in_flight(bench: Bench) -> None:
    """The worker may have done its work just before it died: the command is run again, and then undone."""
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        await hand.claim()
        await bench.skip(31)
        assert await manager.cancel_process(process_id, **WHO) is False
        (again,) = await hand.claim()
        await hand.settle((again, {}))
        await undo_all(hand, "Return")
    assert await ended(bench, process_id) == ("COMPENSATED", *CANCELLED)


async def test_a_released_command_is_run_first_too(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        (first,) = await hand.claim()
        await manager.cancel_process(process_id, **WHO)
        await queue.release(hand.conn, bench.domain, hand.worker_id, [first])
        with pytest.raises(InvalidOperationError, match="to be cancelled already, by ann"):
            await manager.cancel_process(process_id)
        await hand.turn(step="Reserve")
        await undo_all(hand, "Return")
    assert await ended(bench, process_id) == ("COMPENSATED", *CANCELLED)


async def swept(bench: Bench, manager: Any, hand: Hand) -> tuple[UUID, UUID]:
    """A process whose Pay lost its last lease after the cancel: parked. Returns process and command."""
    process_id = await manager.start({})
    await hand.turn(step="Reserve")
    (pay,) = await hand.claim()
    assert await manager.cancel_process(process_id, **WHO) is False
    for _ in range(2):
        await bench.skip(31)
        (pay,) = await hand.claim()
        assert pay.canceling
    await bench.skip(31)
    assert await bench.execute("SELECT commandbus.sweep(%s, NULL)", bench.domain) == [(1,)]
    assert (await process_of(bench, process_id)).status is ProcessStatus.WAITING_FOR_TSQ
    return process_id, pay.command_id


@pytest.mark.parametrize("is_routed", [False, True], ids=["manager here", "manager elsewhere"])
@pytest.mark.parametrize("action", ["complete", "cancel", "retry", "cancel_process"])
async def test_one_that_lost_its_last_lease_waits_for_an_operator(bench: Bench, action: str, is_routed: bool) -> None:
    manager = make_manager(bench)
    tsq = operators(bench) if is_routed else operators(bench, manager)
    async with open_hand(bench, manager) as hand:
        process_id, command_id = await swept(bench, manager, hand)
        if action == "cancel_process":
            assert await manager.cancel_process(process_id, operator="bob") is True
        else:
            await getattr(tsq, f"operator_{action}")(command_id, operator="bob")
        await ProcessReplyRouter([manager], bench.pool).route()
        if action == "retry":
            (again,) = await hand.claim()
            assert (again.command_id, again.canceling) == (command_id, True)
            await hand.settle((again, {}))
        await undo_all(hand, *(["Refund", "Return"] if action in ("complete", "retry") else ["Return"]))
    status, code, message = await ended(bench, process_id)
    assert (status, code) == ("COMPENSATED", "CANCELED")
    assert message == ("cancelled by bob" if "cancel" in action else CANCELLED[1])


async def test_an_operators_retry_of_an_undo_is_no_cancel(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        (reserve,) = await hand.claim()
        await manager.cancel_process(process_id, **WHO)
        await hand.settle((reserve, {}))
        undo = await hand.turn(BROKEN, step="Return")
        with pytest.raises(InvalidOperationError, match="'Return' waits for an operator"):
            await manager.cancel_process(process_id)
        await operators(bench, manager).operator_retry(undo.command_id)
        (again,) = await hand.claim()
        assert again.canceling is False
        await hand.settle((again, BUSY))
        await undo_all(hand, "Return")
    assert await ended(bench, process_id) == ("COMPENSATED", *CANCELLED)


# Attempts that may have had an effect are not called cancelled.


def judged(hand: Hand, claimed: Any, outcome: Outcome) -> Any:
    return hand.settlement.settle(hand.conn, [Finished(claimed, outcome)])


async def test_a_wrong_result_is_parked_since_its_handler_has_run(bench: Bench) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        (reserve,) = await hand.claim()
        await manager.cancel_process(process_id, **WHO)
        await judged(hand, reserve, completed("no dict", 0, {}))
        assert (await process_of(bench, process_id)).status is ProcessStatus.WAITING_FOR_TSQ
        await operators(bench, manager).operator_complete(reserve.command_id)
        await undo_all(hand, "Return")
    assert await ended(bench, process_id) == ("COMPENSATED", *CANCELLED)


@pytest.mark.parametrize("live_elsewhere", [False, True])
async def test_without_a_handler_it_is_canceled_unless_an_earlier_worker_may_have_run_it(
    bench: Bench, live_elsewhere: bool
) -> None:
    manager = make_manager(bench)
    fresh, risky = await manager.start({"order": 1}), await manager.start({"order": 2})
    nowhere = handler_not_found("Reserve", 0, live_elsewhere=live_elsewhere, delay=5)
    async with open_hand(bench, manager) as hand:
        one, two = await hand.claim(2)
        await manager.cancel_process(fresh, **WHO)
        await judged(hand, one, nowhere)
        await bench.skip(31)
        (two,) = await hand.claim()
        await manager.cancel_process(risky, **WHO)
        await judged(hand, two, nowhere)
    assert await ended(bench, fresh) == ("CANCELED", *CANCELLED)
    assert (await process_of(bench, risky)).status is ProcessStatus.WAITING_FOR_TSQ
    parked = await bench.bus.get_command(two.command_id)
    assert (parked.status, parked.error_code) == (CommandStatus.IN_TROUBLESHOOTING_QUEUE, "HANDLER_NOT_FOUND")
    await manager.cancel_process(risky, **WHO)


@pytest.mark.parametrize("end", [{}, BUSY, REFUSED], ids=["success", "failure", "business rule"])
async def test_a_settle_whose_answer_was_lost_may_be_sent_again(bench: Bench, end: Any) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({})
    policy = RetryPolicy(backoff_schedule=[0])
    async with open_hand(bench, manager) as hand:
        (claimed,) = await hand.claim()
        outcome = completed(end, 0, {}) if end == {} else failed(end, 0, 3, policy, {})
        group = [Finished(claimed, outcome)]
        await manager.cancel_process(process_id, **WHO)
        assert await hand.settlement.settle(hand.conn, group) == set()
        before = await process_of(bench, process_id), await bench.trail(claimed.command_id)
        assert await hand.settlement.settle(hand.conn, group) == set()
        assert (await process_of(bench, process_id), await bench.trail(claimed.command_id)) == before


async def test_a_completion_in_the_handlers_transaction_heeds_the_cancel(bench: Bench) -> None:
    """Its writes and the undo's sending commit together."""
    manager = make_manager(bench)
    await bench.execute("CREATE TABLE IF NOT EXISTS public.taken (command_id uuid)")
    started, go_on = asyncio.Event(), asyncio.Event()

    @bench.handler("Reserve")
    async def reserve(command: Any, context: Any) -> None:
        async with context.transaction() as conn:
            started.set()
            await go_on.wait()
            await conn.execute("INSERT INTO public.taken VALUES (%s)", (command.command_id,))
            await context.complete({"n": 1})

    @bench.handler("Return")
    async def give_back(command: Any, context: Any) -> None:
        return None

    process_id = await manager.start({})
    async with bench.worker(processes=[manager]):
        await started.wait()
        assert await manager.cancel_process(process_id, **WHO) is False
        go_on.set()
        await eventually(lambda: terminal(bench, process_id), "the process to end")
    assert await ended(bench, process_id) == ("COMPENSATED", *CANCELLED)
    (first, *_) = await ProcessRepository(bench.pool).get_audit_trail(process_id)
    assert await bench.execute("SELECT count(*) FROM public.taken WHERE command_id = %s", first.command_id) == [(1,)]


async def terminal(bench: Bench, process_id: UUID) -> bool | None:
    return (await process_of(bench, process_id)).status.is_terminal or None


async def test_a_handler_that_times_out_is_canceled(bench: Bench) -> None:
    manager = make_manager(bench)
    started = asyncio.Event()

    @bench.handler("Reserve")
    async def reserve(command: Any, context: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    process_id = await manager.start({})
    async with bench.worker(processes=[manager], visibility_timeout=1.0, poll_interval=NEVER):
        await started.wait()
        assert await manager.cancel_process(process_id, **WHO) is False
        await eventually(lambda: terminal(bench, process_id), "the process to end")
    assert await ended(bench, process_id) == ("CANCELED", *CANCELLED)
    (entry,) = await ProcessRepository(bench.pool).get_audit_trail(process_id)
    events = await bench.bus.get_audit_trail(entry.command_id)
    assert events[-1].details["code"] == "TIMEOUT"


async def test_every_process_ends_whatever_is_cancelled_while_workers_run(bench: Bench) -> None:
    """Hundreds of processes, cancelled at all times, by handlers that fail in all ways."""
    manager = make_manager(bench)
    attempts: dict[UUID, int] = {}

    async def handle(command: Any, context: Any) -> dict[str, Any]:
        attempts[command.command_id] = attempts.get(command.command_id, 0) + 1
        await asyncio.sleep((command.command_id.int % 5) / 1_000)
        if command.command_id.int % 7 == 0 and context.attempt < 3:
            raise BUSY
        if command.command_id.int % 11 == 0 and context.step == "Ship":
            raise REFUSED
        return {}

    for step in ("Reserve", "Pay", "Ship", "Return", "Refund"):
        bench.handler(step)(handle)
    batch_id = uuid4()
    await manager.start_many([{"order": n} for n in range(200)], batch_id)
    processes = await ProcessRepository(bench.pool).of_batch(batch_id)
    policy = RetryPolicy(max_attempts=3, backoff_schedule=[0])
    async with bench.worker(processes=[manager], retry_policy=policy), bench.worker(retry_policy=policy):
        for process in processes[::2]:
            with contextlib.suppress(InvalidOperationError):  # it may have ended before
                await manager.cancel_process(process.process_id, **WHO)

        async def all_ended() -> bool | None:
            return all(p.status.is_terminal for p in await ProcessRepository(bench.pool).of_batch(batch_id)) or None

        await eventually(all_ended, "all processes to end")
    statuses = {str(p.status) for p in await ProcessRepository(bench.pool).of_batch(batch_id)}
    assert {"COMPLETED", "COMPENSATED", "CANCELED"} == statuses


@pytest.mark.parametrize("is_before", [True, False], ids=["before the handler", "after the handler"])
async def test_a_middleware_that_fails_is_a_failure_of_the_attempt(bench: Bench, is_before: bool) -> None:
    manager = make_manager(bench)
    started, go_on = asyncio.Event(), asyncio.Event()
    ran: list[str] = []

    class Breaks(Middleware):
        async def handle(self, context: HandlerContext, call_next: Callable[[], Awaitable[Any]]) -> Any:
            started.set()
            await go_on.wait()
            if not is_before:
                await call_next()
            raise RuntimeError("no tracing today")

    @bench.handler("Reserve")
    async def reserve(command: Any, context: Any) -> None:
        ran.append(context.step)

    process_id = await manager.start({})
    async with bench.worker(processes=[manager], middleware=[Breaks()]):
        await started.wait()
        assert await manager.cancel_process(process_id, **WHO) is False
        go_on.set()
        await eventually(lambda: terminal(bench, process_id), "the process to end")
    assert await ended(bench, process_id) == ("CANCELED", *CANCELLED)
    assert ran == ([] if is_before else ["Reserve"])
    assert await steps_of(bench, process_id) == [("Reserve", 1, "CANCELED")]
