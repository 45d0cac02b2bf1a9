"""Lesson 5: what cannot be done waits in the troubleshooting queue, until an operator retries, completes or cancels."""

import pytest
from books import order
from order_saga import sql
from order_saga.process import OrderProcess


@pytest.mark.chaos(charge={"fail_transient_times": 4})
async def test_retried_once_the_bank_is_back(cb_process_batch, cb_tsq, books):
    batch = await cb_process_batch(OrderProcess, count=3, initial_data=order)
    assert (await batch.wait()).in_troubleshooting_count == 3
    assert len(await books.wrong()) == 3  # half done: each holds pieces that it has not shipped

    for parked in (await cb_tsq.list_troubleshooting("orders", "ChargeCard")).items:
        await cb_tsq.operator_retry(parked.command_id, operator="ann", reason="the bank is back")
    await batch.complete()

    await batch.assert_completed()
    assert await books.wrong() == []


@pytest.mark.chaos(ship={"fail_permanent_pct": 100, "error_code": "NO_CARRIER"})
async def test_cancelled_when_nobody_carries_it(cb_process_batch, cb_tsq, cb_bus, books):
    batch = await cb_process_batch(OrderProcess, initial_data=order)
    await batch.wait()
    (parked,) = (await cb_tsq.list_troubleshooting("orders", "ShipParcel")).items
    assert parked.error_code == "NO_CARRIER"

    await cb_tsq.operator_cancel(parked.command_id, operator="ann", reason="the carrier is bankrupt")
    await batch.complete()

    await batch.assert_outcomes({"COMPENSATED": 1})
    (process,) = await batch.processes()
    await batch.assert_compensated(process.process_id, ["ChargeCard", "ReserveStock"])
    await cb_bus.assert_nothing_left()
    assert await books.wrong() == []


@pytest.mark.chaos(charge={"fail_business_rule_pct": 100}, release={"fail_permanent_pct": 100})
async def test_completed_by_hand_where_the_undo_is_stuck(cb_process_batch, cb_tsq, cb_pool, books):
    batch = await cb_process_batch(OrderProcess, initial_data=order)
    await batch.wait()
    assert await books.wrong() == ["order 0: holds 1 pieces, shipped 0"]

    (parked,) = (await cb_tsq.list_troubleshooting("orders", "ReleaseStock")).items
    async with cb_pool.connection() as conn:  # what ann does by hand commits together with what she says about it
        await conn.execute(sql.RELEASE_RESERVATION, order(0))
        await cb_tsq.operator_complete(parked.command_id, operator="ann", reason="back on the shelf", conn=conn)
    await batch.complete()

    await batch.assert_outcomes({"CANCELED": 1})
    assert await books.wrong() == []
