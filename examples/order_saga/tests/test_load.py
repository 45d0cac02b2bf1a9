"""Lesson 8: many orders at once, judged by thresholds. Runs with --cb-load; `make load` writes and compares reports."""

import pytest
from books import order
from order_saga.process import OrderProcess


# Take the limits from a few runs on your own machine, with room for a bad day.
@pytest.mark.load(p99_ms=30_000, min_per_second=1, max_failed_pct=30, max_seconds=300)
@pytest.mark.chaos(
    reserve={"fail_transient_times": 1},
    charge={"fail_transient_times": 1, "fail_business_rule_pct": 3},
    ship={"fail_business_rule_pct": 5},
)
async def test_orders_by_the_thousand(cb_load, books):
    result = await cb_load(OrderProcess, initial_data=order)

    assert result.mismatches == []
    assert await books.parcels() == result.outcomes["COMPLETED"]
    assert await books.wrong() == []
