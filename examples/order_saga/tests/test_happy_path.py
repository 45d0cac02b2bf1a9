"""Lesson 1: an order end to end, with real workers on a real PostgreSQL, and no set-up but the ini key `cb_app`."""

from books import order
from order_saga.process import OrderProcess


async def test_orders_are_reserved_charged_and_shipped(cb_process_batch, books):
    batch = await cb_process_batch(OrderProcess, count=10, initial_data=order)
    await batch.complete()

    await batch.assert_completed()
    for process in await batch.processes():
        assert process.state["parcel"].startswith("P")
        await batch.assert_path(process.process_id, ["ReserveStock", "ChargeCard", "ShipParcel"])
    assert await books.parcels() == 10
    assert await books.wrong() == []
