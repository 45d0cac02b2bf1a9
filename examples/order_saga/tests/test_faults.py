"""Lesson 6: workers die, sessions end, the server crashes. No order is lost, nothing is paid or shipped twice."""

import pytest
from books import order
from order_saga.process import OrderProcess


@pytest.mark.faults(
    kill={"at": "before_settle", "step": "charge"},  # the worst moment: the money is taken, and nobody knows
    terminate={"at": "before_settle", "step": "ship", "times": 2},
)
async def test_money_and_stock_add_up_whatever_dies(cb_process_batch, books):
    batch = await cb_process_batch(OrderProcess, count=20, initial_data=order)
    await batch.complete()

    await batch.assert_completed()
    assert await books.parcels() == 20
    assert await books.wrong() == []


@pytest.mark.cb_crash_matrix  # once for each point of a worker's way with a command
@pytest.mark.chaos(ship={"fail_business_rule_pct": 50})  # so that undoing is crashed into, too
async def test_a_worker_may_be_killed_anywhere(cb_process_batch, cb_bus, books):
    batch = await cb_process_batch(OrderProcess, count=6, initial_data=order, workers=1)
    await batch.complete()

    assert batch.stats.completed_count == await books.parcels()
    await cb_bus.assert_nothing_left()
    assert await books.wrong() == []


async def test_the_server_crashes_under_way(cb_faults, cb_worker_pool, cb_process_batch, books):
    batch = await cb_process_batch(OrderProcess, count=10, initial_data=order, workers=0)
    async with cb_faults.crash_postgres(at="before_settle", nth=4) as crash, cb_worker_pool(processes=False):
        await batch.complete()

    assert [fault.kind for fault in crash.injected] == ["crash_postgres"]
    await batch.assert_completed()
    assert await books.wrong() == []
