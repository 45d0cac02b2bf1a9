"""The shop's tests: no conftest, no configuration but where the app is."""

import pytest
from shop import OrderProcess


def order(number):
    return {"order": number}


async def test_orders_are_shipped(cb_process_batch):
    batch = await cb_process_batch(OrderProcess, count=20, initial_data=order)
    stats = await batch.complete(timeout=30)
    assert stats.completed_count == 20
    assert {process.state["cents"] for process in await batch.processes()} == set(range(100, 120))


def test_a_plain_test_blocks(cb_process_batch, cb_worker_pool):
    with cb_worker_pool(workers=1):
        batch = cb_process_batch(OrderProcess, count=5, initial_data=order)
        assert batch.complete(timeout=30).completed_count == 5


@pytest.mark.chaos(charge={"fail_permanent_pct": 100})
async def test_a_broken_card_terminal_parks_every_order(cb_process_batch):
    batch = await cb_process_batch(OrderProcess, count=50, initial_data=order)
    stats = await batch.wait(timeout=30)
    assert stats.in_troubleshooting_count == 50


@pytest.mark.chaos(ship={"fail_transient_times": 2})
async def test_two_bad_days_at_the_carrier_cost_retries_and_no_order(cb_process_batch):
    batch = await cb_process_batch(OrderProcess, count=25, initial_data=order)
    stats = await batch.complete(timeout=30)
    assert stats.completed_count == 25


@pytest.mark.chaos(reserve={"fail_transient_pct": 30}, charge={"fail_business_rule_pct": 20, "timeout_pct": 10})
async def test_workers_of_their_own_processes_end_every_order_as_predicted(cb_process_batch, cb_worker_pool):
    async with cb_worker_pool(workers=2, processes=True):
        batch = await cb_process_batch(OrderProcess, count=100, initial_data=order)
        await batch.wait(timeout=60)
    assert await batch.observed() == batch.predict()


@pytest.mark.load
@pytest.mark.chaos(charge={"fail_transient_pct": 10, "fail_business_rule_pct": 2, "fail_permanent_pct": 1})
async def test_many_orders(cb_load):
    result = await cb_load(OrderProcess, initial_data=order)
    assert result.actual == result.predict()
    assert sum(result.outcomes.values()) == result.processes
