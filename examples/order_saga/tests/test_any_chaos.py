"""Lesson 7: say what holds under any chaos, and let Hypothesis look for the least that breaks it."""

from books import Books, order
from hypothesis import given, settings
from order_saga.process import OrderProcess, Step

from pytest_commandbus.strategies import behaviors, chaos_rules, process_batches

forward = chaos_rules(
    [Step.RESERVE_STOCK, Step.CHARGE_CARD, Step.SHIP_PARCEL],
    behavior=behaviors(failures=["fail_business_rule_pct", "fail_transient_pct", "timeout_pct"]),
)


# Each example has a fresh database: the books are opened in the test, not by a fixture.
@given(chaos=forward, batch=process_batches(OrderProcess, max_count=5, initial_data=order))
@settings(max_examples=10)
async def test_no_chaos_costs_money_or_stock(cb_chaos, cb_process_batch, cb_pool, cb_tsq, chaos, batch):
    books = await Books(cb_pool).open()
    cb_chaos(**chaos)
    handle = await cb_process_batch(**batch)
    await handle.wait()

    assert await handle.observed() == handle.predict()
    assert await books.parcels() == handle.stats.completed_count
    for parked in (await cb_tsq.list_troubleshooting("orders")).items:  # is half done, until somebody decides
        await cb_tsq.operator_cancel(parked.command_id, operator="ann", reason="chaos won")
    await handle.complete()
    assert await books.wrong() == []
