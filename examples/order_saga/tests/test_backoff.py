"""Lesson 4: the bus's clock. Retries wait minutes and reservations days, tests do not."""

import pytest
from books import order
from order_saga.process import OrderProcess


@pytest.mark.chaos(charge={"fail_transient_times": 3})
async def test_a_bank_that_is_away_for_minutes_costs_three_retries(cb_process_batch, cb_clock, books):
    batch = await cb_process_batch(OrderProcess, initial_data=order)
    await batch.complete()

    await batch.assert_completed()
    assert cb_clock.skipped > 300  # it waited for 10, 60 and 300 seconds, in hardly any real time
    (process,) = await batch.processes()
    events = [entry.event for entry in await batch.timeline(process.process_id) if entry.step == "ChargeCard"]
    assert events.count("RETRY_SCHEDULED") == 3
    assert await books.wrong() == []


@pytest.mark.chaos(charge={"fail_transient_times": 4})  # as often as it is tried
async def test_a_reservation_expires_while_an_order_is_parked(cb_process_batch, cb_tsq, cb_clock, books):
    batch = await cb_process_batch(OrderProcess, initial_data=order)
    await batch.wait()
    (parked,) = (await cb_tsq.list_troubleshooting("orders", "ChargeCard")).items

    await cb_clock.advance(3 * 24 * 3600)
    await cb_tsq.operator_retry(parked.command_id, operator="ann", reason="the bank is back after three days")
    await batch.complete()

    (late,) = await batch.processes("CANCELED")
    assert late.error_code == "RESERVATION_EXPIRED"
    await batch.assert_compensated(late.process_id, ["ChargeCard", "ReserveStock"])
    assert await books.wrong() == []
