"""A cancel against everybody who may hold the command just then, forced to meet on one row, in both orders."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from commandbus import InvalidOperationError, PermanentCommandError, TransientCommandError
from commandbus.process import ProcessReplyRouter, ProcessStatus
from commandbus.repositories import queue
from tests.integration.process_kit import Hand, make_manager, open_hand, operators, process_of, steps_of
from tests.integration.test_troubleshooting_races import until_blocked
from tests.integration.worker_kit import Bench

pytestmark = pytest.mark.asyncio

BROKEN = PermanentCommandError("BROKEN", "out of order")
BUSY = TransientCommandError("BUSY", "try again")
Action = Callable[[Any], Awaitable[Any]]


@asynccontextmanager
async def met(bench: Bench, first: Action, second: Action, *, commit: bool) -> Any:
    """Have `first` done but not committed, then `second` waiting for it; commit or roll `first` back.

    Gives a future with what `second` returned or raised.
    """
    async with bench.pool.connection() as one, bench.pool.connection() as two:
        await first(one)
        waiting = asyncio.create_task(second(two))
        await until_blocked(bench, two.info.backend_pid)
        await (one.commit() if commit else one.rollback())
        await asyncio.wait([waiting])
        yield waiting


async def cancelled(bench: Bench, manager: Any, process_id: UUID, *undone: str) -> None:
    """See that the process ends cancelled, after just these undo steps."""
    async with open_hand(bench, manager) as hand:
        for step in undone:
            await hand.turn(step=step)
        assert await hand.claim() == []
    process = await process_of(bench, process_id)
    assert process.status is (ProcessStatus.COMPENSATED if undone else ProcessStatus.CANCELED)
    assert process.error_message == "cancelled by ann"


@pytest.fixture
def manager(bench: Bench) -> Any:
    return make_manager(bench)


@pytest.fixture
def cancel(manager: Any) -> Callable[[UUID], Action]:
    return lambda process_id: lambda conn: manager.cancel_process(process_id, operator="ann", conn=conn)


def on(hand: Hand, conn: Any) -> Hand:
    """The same worker on another connection."""
    return type(hand)(hand.bench, conn, hand.worker_id, list(hand.settlement.managers.values()))


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_a_claim_is_waited_for(bench: Bench, manager: Any, cancel: Any, commit: bool) -> None:
    process_id = await manager.start({})
    claims: list[Any] = []

    async def claim(conn: Any) -> None:
        claims.extend(await on(hand, conn).claim())

    async with open_hand(bench, manager) as hand:
        async with met(bench, claim, cancel(process_id), commit=commit) as answer:
            assert answer.result() is not commit
        if commit:
            await hand.settle((claims[0], {}))
    await cancelled(bench, manager, process_id, *(["Return"] if commit else []))


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_a_claim_passes_over_what_is_being_cancelled(
    bench: Bench, manager: Any, cancel: Any, commit: bool
) -> None:
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand, bench.pool.connection() as conn:
        await cancel(process_id)(conn)
        assert await hand.claim() == []
        await (conn.commit() if commit else conn.rollback())
        assert [c.step for c in await hand.claim()] == ([] if commit else ["Reserve"])


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
@pytest.mark.parametrize("end", [{}, BUSY, BROKEN], ids=["success", "retry", "park"])
async def test_a_settle_is_waited_for(bench: Bench, manager: Any, cancel: Any, end: Any, commit: bool) -> None:
    """Then the cancel finds the command where the settle has put it, or the next one."""
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        (claimed,) = await hand.claim()

        async def settle(conn: Any) -> None:
            assert await on(hand, conn).settle((claimed, end)) == set()

        async with met(bench, settle, cancel(process_id), commit=commit) as answer:
            assert answer.result() is commit
        if not commit:
            assert await hand.settle((claimed, end)) == set()
    await cancelled(bench, manager, process_id, *(["Return"] if end == {} else []))


@pytest.mark.parametrize("is_hooked", [False, True], ids=["plain", "hooked"])
@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_a_settle_waits_for_the_cancel_and_heeds_it(bench: Bench, commit: bool, is_hooked: bool) -> None:
    sent: list[str] = []

    async def hook(self: Any, items: Any, conn: Any) -> None:
        sent.extend(item.step for item in items)

    manager = make_manager(bench, **({"before_send_commands": hook} if is_hooked else {}))
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        (claimed,) = await hand.claim()

        async def cancel(conn: Any) -> None:
            assert await manager.cancel_process(process_id, conn=conn) is False

        async def settle(conn: Any) -> set[int]:
            return await on(hand, conn).settle((claimed, {"n": 1}))

        async with met(bench, cancel, settle, commit=commit) as answer:
            assert answer.result() == set()
    assert await steps_of(bench, process_id) == [
        ("Reserve", 1, "COMPLETED"), ("Return" if commit else "Pay", 1, "PENDING"),
    ]  # fmt: skip
    assert sent == ([] if not is_hooked else ["Reserve", "Return" if commit else "Pay"])


async def test_a_group_settles_though_one_of_it_is_being_cancelled(bench: Bench, manager: Any, cancel: Any) -> None:
    ids = [await manager.start({"order": n}) for n in range(3)]
    async with open_hand(bench, manager) as hand:
        claims = await hand.claim(3)

        async def settle(conn: Any) -> set[int]:
            return await on(hand, conn).settle(*[(claimed, {}) for claimed in claims])

        async with met(bench, cancel(ids[1]), settle, commit=True) as answer:
            assert answer.result() == set()
    assert [(await steps_of(bench, i))[-1][0] for i in ids] == ["Pay", "Return", "Pay"]


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_a_retry_that_becomes_due_is_found_in_the_queue(
    bench: Bench, manager: Any, cancel: Any, commit: bool
) -> None:
    process_id = await manager.start({})

    async def bring_in(conn: Any) -> None:
        assert await on(hand, conn).claim(0) == []

    async with open_hand(bench, manager) as hand:
        await hand.turn(BUSY)
        async with met(bench, bring_in, cancel(process_id), commit=commit) as answer:
            assert answer.result() is True
    await cancelled(bench, manager, process_id)


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_a_retry_that_is_due_and_claimed_at_once_ends_first(
    bench: Bench, manager: Any, cancel: Any, commit: bool
) -> None:
    process_id = await manager.start({})
    claims: list[Any] = []

    async def claim(conn: Any) -> None:
        claims.extend(await on(hand, conn).claim())

    async with open_hand(bench, manager) as hand:
        await hand.turn(BUSY)
        async with met(bench, claim, cancel(process_id), commit=commit) as answer:
            assert answer.result() is not commit
        if commit:
            await hand.settle((claims[0], BUSY))
    await cancelled(bench, manager, process_id)


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_a_sweep_is_waited_for(bench: Bench, manager: Any, cancel: Any, commit: bool) -> None:
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand:
        for _ in range(3):
            await hand.claim()
            await bench.skip(31)

        async def sweep(conn: Any) -> None:
            assert await queue.sweep(conn, bench.domain) == 1

        async with met(bench, sweep, cancel(process_id), commit=commit) as answer:
            assert answer.result() is commit  # an expired lease may stand for work that was done
        if not commit:
            assert await queue.sweep(hand.conn, bench.domain) == 1
            assert (await process_of(bench, process_id)).status is ProcessStatus.WAITING_FOR_TSQ
            await manager.cancel_process(process_id, operator="ann")
    await cancelled(bench, manager, process_id)


async def test_a_sweep_passes_over_what_is_being_cancelled(bench: Bench, manager: Any, cancel: Any) -> None:
    process_id = await manager.start({})
    async with open_hand(bench, manager) as hand, bench.pool.connection() as conn:
        for _ in range(3):
            await hand.claim()
            await bench.skip(31)
        assert await cancel(process_id)(conn) is False
        assert await queue.sweep(hand.conn, bench.domain) == 0
        await conn.commit()
        assert await queue.sweep(hand.conn, bench.domain) == 1
    assert (await process_of(bench, process_id)).status is ProcessStatus.WAITING_FOR_TSQ
    assert await manager.cancel_process(process_id, operator="ann") is True
    await cancelled(bench, manager, process_id)


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
@pytest.mark.parametrize("action", ["operator_retry", "operator_cancel", "operator_complete"])
async def test_an_operator_is_waited_for(bench: Bench, manager: Any, cancel: Any, action: str, commit: bool) -> None:
    process_id = await manager.start({})
    tsq = operators(bench, manager)
    async with open_hand(bench, manager) as hand:
        parked = await hand.turn(BROKEN)

    async def operate(conn: Any) -> None:
        await getattr(tsq, action)(parked.command_id, operator="ann", conn=conn)

    async with met(bench, operate, cancel(process_id), commit=commit) as answer:
        if commit and action == "operator_cancel":
            assert isinstance(answer.exception(), InvalidOperationError)
        else:
            assert answer.result() is True
    await cancelled(bench, manager, process_id, *(["Return"] if commit and action == "operator_complete" else []))


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
@pytest.mark.parametrize("action", ["operator_retry", "operator_cancel", "operator_complete"])
async def test_an_operator_waits_for_the_cancel(
    bench: Bench, manager: Any, cancel: Any, action: str, commit: bool
) -> None:
    process_id = await manager.start({})
    tsq = operators(bench, manager)
    async with open_hand(bench, manager) as hand:
        parked = await hand.turn(BROKEN)

    async def operate(conn: Any) -> None:
        await getattr(tsq, action)(parked.command_id, operator="ann", conn=conn)

    async with met(bench, cancel(process_id), operate, commit=commit) as answer:
        if commit:
            assert isinstance(answer.exception(), InvalidOperationError)
        else:
            assert answer.exception() is None
    if commit:
        await cancelled(bench, manager, process_id)


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_a_router_is_waited_for(bench: Bench, manager: Any, cancel: Any, commit: bool) -> None:
    process_id = await manager.start({})
    async with open_hand(bench) as stranger:
        await stranger.turn({"n": 1})

    async def route(conn: Any) -> None:
        assert await ProcessReplyRouter([manager]).route(conn) == 1

    async with met(bench, route, cancel(process_id), commit=commit) as answer:
        assert answer.result() is commit
    assert await ProcessReplyRouter([manager], bench.pool).route() == int(not commit)
    await cancelled(bench, manager, process_id, "Return")


@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_a_router_passes_over_what_is_being_cancelled_and_heeds_it_later(
    bench: Bench, manager: Any, cancel: Any, commit: bool
) -> None:
    process_id = await manager.start({})
    router = ProcessReplyRouter([manager], bench.pool)
    async with open_hand(bench) as stranger, bench.pool.connection() as conn:
        await stranger.turn({"n": 1})
        assert await cancel(process_id)(conn) is False
        assert await router.route() == 0
        await (conn.commit() if commit else conn.rollback())
        assert await router.route() == 1
    assert (await steps_of(bench, process_id))[1][0] == ("Return" if commit else "Pay")


@pytest.mark.parametrize("state", ["due", "claimed", "waiting", "parked", "answered"])
@pytest.mark.parametrize("commit", [True, False], ids=["commit", "rollback"])
async def test_one_of_two_cancels_wins(bench: Bench, manager: Any, cancel: Any, state: str, commit: bool) -> None:
    process_id = await manager.start({})
    claims: list[Any] = []
    async with open_hand(bench, manager) as hand, open_hand(bench) as stranger:
        match state:
            case "claimed":
                claims = await hand.claim()
            case "waiting":
                await hand.turn(BUSY)
            case "parked":
                await hand.turn(BROKEN)
            case "answered":
                await stranger.turn({})

        async def other(conn: Any) -> bool:
            return bool(await manager.cancel_process(process_id, operator="bob", conn=conn))

        async with met(bench, other, cancel(process_id), commit=commit) as answer:
            if commit:
                assert isinstance(answer.exception(), InvalidOperationError)
            else:
                assert answer.result() is (state not in ("claimed", "answered"))
        if claims:
            await hand.settle((claims[0], {}))
        await ProcessReplyRouter([manager], bench.pool).route()
        if state in ("claimed", "answered"):
            await hand.turn(step="Return")
        assert await hand.claim() == []
    process = await process_of(bench, process_id)
    assert process.error_message == ("cancelled by bob" if commit else "cancelled by ann")


async def test_ten_cancels_at_once_make_one(bench: Bench, manager: Any) -> None:
    process_id = await manager.start({})
    answers = await asyncio.gather(
        *[manager.cancel_process(process_id, operator=str(n)) for n in range(10)], return_exceptions=True
    )
    (winner,) = [n for n, answer in enumerate(answers) if answer is True]
    assert all(isinstance(a, InvalidOperationError) for n, a in enumerate(answers) if n != winner)
    assert (await process_of(bench, process_id)).error_message == f"cancelled by {winner}"
