"""Lesson 3: chaos at will. The seed tells beforehand how each process must end, so the test says "exactly so"."""

import pytest
from books import order
from order_saga.process import OrderProcess


@pytest.mark.chaos(charge={"fail_business_rule_pct": 30, "timeout_pct": 10}, RELEASE_STOCK={"fail_transient_pct": 20})
async def test_each_order_ends_as_its_seed_predicts(cb_process_batch, books):
    batch = await cb_process_batch(OrderProcess, count=60, initial_data=order)
    await batch.wait()

    assert await batch.observed() == batch.predict()
    assert await books.parcels() == batch.stats.completed_count
    assert len(await books.wrong()) == batch.stats.in_troubleshooting_count  # hardly ever; it holds pieces till then


@pytest.mark.chaos("black-friday")  # of pyproject.toml; whole runs can have it, too: pytest --cb-chaos=black-friday
class TestOnBlackFriday:
    async def test_what_fails_for_a_while_costs_retries_and_no_order(self, cb_process_batch, books):
        batch = await cb_process_batch(OrderProcess, count=60, initial_data=order)
        await batch.wait()

        assert await batch.observed() == batch.predict()
        assert await books.parcels() == batch.stats.completed_count

    @pytest.mark.chaos("broken-label-printer")  # for each step the nearer marker wins: this one is for ship and refund
    async def test_without_labels_the_money_goes_back(self, cb_process_batch, books):
        batch = await cb_process_batch(OrderProcess, count=60, initial_data=order)
        await batch.wait()

        assert await batch.observed() == batch.predict()
        (refused, *_) = await batch.processes("CANCELED")
        assert refused.error_code == "NO_LABEL"
        await batch.assert_compensated(refused.process_id, ["ChargeCard", "ReserveStock"])


@pytest.mark.chaos(ship={"response_data": {"parcel": "LOST"}})
async def test_what_a_step_answers_can_be_laid_over(cb_process_batch, books):
    batch = await cb_process_batch(OrderProcess, initial_data=order)
    await batch.complete()

    (process,) = await batch.processes()
    assert process.state["parcel"] == "LOST"
    assert await books.wrong() == []
