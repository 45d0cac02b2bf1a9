"""The shop's tests: no conftest, no configuration but where the app is."""

import pytest
from shop import OrderProcess


def order(number):
    return {"order": number}


async def test_orders_are_shipped(cb_process_batch):
    batch = await cb_process_batch(OrderProcess, count=20, initial_data=order)
    stats = await batch.complete(timeout=30)
    assert stats.completed_count == 20


@pytest.mark.chaos(charge={"fail_permanent_pct": 100})
async def test_a_broken_card_terminal_parks_every_order(cb_process_batch):
    batch = await cb_process_batch(OrderProcess, count=50, initial_data=order)
    stats = await batch.wait(timeout=30)
    assert stats.in_troubleshooting_count == 50


@pytest.mark.chaos(ship={"fail_transient_times": 2})
async def test_two_bad_days_at_the_carrier_cost_retries_and_no_order(cb_process_batch):
    batch = await cb_process_batch(OrderProcess, count=25, initial_data=order)
    stats = await batch.wait(timeout=30)
    assert (stats.completed_count, stats.in_troubleshooting_count) == (25, 0)


@pytest.mark.load
@pytest.mark.chaos(charge={"fail_transient_pct": 10, "fail_business_rule_pct": 2, "fail_permanent_pct": 1})
async def test_many_orders(cb_load):
    result = await cb_load(OrderProcess, initial_data=order)
    assert sum(result.outcomes.values()) == result.processes
