"""Lesson 2: a business rule says no, and what was done is undone, the last step first."""

import pytest
from books import Books, order
from order_saga.process import OrderProcess


async def test_where_nobody_delivers_the_money_and_the_stock_go_back(cb_process_batch, cb_bus, books):
    batch = await cb_process_batch(
        OrderProcess, count=5, initial_data=lambda i: order(i) | {"country": "AQ" if i == 3 else "AT"}
    )
    await batch.complete()

    await batch.assert_outcomes({"COMPLETED": 4, "CANCELED": 1})
    (refused,) = await batch.processes("CANCELED")
    assert refused.error_code == "NOT_SERVED"
    await batch.assert_path(refused.process_id, ["ReserveStock", "ChargeCard", "ShipParcel"])
    await batch.assert_compensated(refused.process_id, ["ChargeCard", "ReserveStock"])
    await batch.assert_sent("RefundCard", where={"order_id": 3, "cents": order(3)["cents"]})
    await batch.assert_sent("ReleaseStock", where={"order_id": 3})
    await cb_bus.assert_nothing_left()
    assert await books.parcels() == 4
    assert await books.wrong() == []


async def test_the_last_pieces_are_not_sold_twice(cb_process_batch, cb_pool):
    books = await Books(cb_pool).open(pieces=3)
    batch = await cb_process_batch(
        OrderProcess, count=10, initial_data=lambda i: order(i) | {"sku": "sku-0", "quantity": 1}
    )
    await batch.complete()

    await batch.assert_outcomes({"COMPLETED": 3, "CANCELED": 7})
    for refused in await batch.processes("CANCELED"):
        assert refused.error_code == "OUT_OF_STOCK"
        await batch.assert_compensated(refused.process_id, [])
    assert await books.wrong() == []


async def test_a_declined_card_gives_only_the_stock_back(cb_process_batch, cb_pool):
    books = await Books(cb_pool).open(credit=500)
    batch = await cb_process_batch(OrderProcess, initial_data=order)
    await batch.complete()

    (declined,) = await batch.processes("CANCELED")
    assert declined.error_code == "CARD_DECLINED"
    await batch.assert_compensated(declined.process_id, ["ReserveStock"])
    with pytest.raises(AssertionError, match="assert_sent"):  # the failure text shows what was sent instead
        await batch.assert_sent("RefundCard")
    assert await books.wrong() == []
