"""Hypothesis at work."""

from hypothesis import given, settings
from shop import OrderProcess

from pytest_commandbus.strategies import chaos_rules, process_batches


@given(chaos=chaos_rules(OrderProcess), orders=process_batches(OrderProcess, max_count=3, initial_data={"order": 1}))
@settings(max_examples=3, database=None)
async def test_orders_end_as_predicted(cb_chaos, cb_process_batch, chaos, orders):
    cb_chaos(**chaos)
    batch = await cb_process_batch(**orders)
    await batch.wait()
    assert await batch.observed() == batch.predict()
