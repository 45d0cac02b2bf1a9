"""Lesson 8: many orders at once, judged by thresholds. Runs with --cb-load; `make load` writes and compares reports."""

import pytest
from books import order
from order_saga.process import OrderProcess


# Take the limits from a few runs on your own machine, with room for a bad day.
@pytest.mark.load(p99_ms=20_000, min_per_second=1, max_failed_pct=20, max_seconds=300)
@pytest.mark.chaos("black-friday", ship={"fail_business_rule_pct": 5})
async def test_orders_by_the_thousand(cb_load, books):
    result = await cb_load(OrderProcess, initial_data=order)

    assert result.mismatches == []
    parked = result.outcomes.get("WAITING_FOR_TSQ", 0)
    assert parked or await books.wrong() == []
    assert await books.parcels() == result.outcomes["COMPLETED"]
