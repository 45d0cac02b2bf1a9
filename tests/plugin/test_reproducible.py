"""The same seed gives the same outcome of every process, whatever the workers, kills and xdist, as foretold."""

import json

import pytest

from pytest_commandbus.oracle import Prediction

from .conftest import Suite
from .shop import OrderProcess

ROUGH = {
    "reserve": {"fail_transient_pct": 30, "timeout_pct": 10},
    "payment": {"fail_permanent_pct": 10, "fail_transient_pct": 30},
    "ship": {"fail_business_rule_pct": 30},
    "return": {"fail_transient_pct": 30},
}
CHAOS = pytest.mark.chaos(
    ReserveStock=ROUGH["reserve"], TakePayment=ROUGH["payment"], ShipParcel=ROUGH["ship"], ReturnStock=ROUGH["return"]
)
COUNT = 150


def is_mixed(outcome: Prediction) -> bool:
    return len(outcome.outcomes) >= 3 and outcome.retries > 10


@CHAOS
@pytest.mark.parametrize("workers", [1, 8])
async def test_one_and_eight_workers_do_what_the_oracle_foretold(cb_process_batch, cb_worker_pool, workers):
    foretold = cb_process_batch.predict(OrderProcess, count=COUNT)
    async with cb_worker_pool(workers=workers, concurrency=5):
        batch = await cb_process_batch(OrderProcess, count=COUNT)
        await batch.wait()
    assert await batch.observed() == batch.predict() == foretold
    assert is_mixed(foretold)


@CHAOS
async def test_killed_worker_processes_change_no_outcome(cb_process_batch, cb_worker_pool):
    async with cb_worker_pool(workers=3, concurrency=5, processes=True) as pool:
        batch = await cb_process_batch(OrderProcess, count=COUNT, initial_data={"slow": 0.01})
        await pool.claimed()
        await pool.kill(0)
        await batch.wait()
        assert len(pool.pids) == 2
    assert await batch.observed() == batch.predict()
    assert is_mixed(batch.predict())


@CHAOS
async def test_a_second_batch_of_a_test_rolls_anew(cb_process_batch):
    first = await cb_process_batch(OrderProcess, count=COUNT)
    second = await cb_process_batch(OrderProcess, count=COUNT)
    await first.wait()
    await second.wait()
    assert await first.observed() == first.predict()
    assert (
        await second.observed()
        == second.predict()
        == cb_process_batch.predict(OrderProcess, count=COUNT, batch_number=2)
    )
    assert first.predict() != second.predict()


@pytest.mark.parametrize(
    "distribution",
    [(), ("-n0",), ("-n2",), pytest.param(("-n4",), marks=pytest.mark.slow)],
    ids=lambda d: " ".join(d) or "without",
)
def test_xdist_changes_no_outcome(suite: Suite, distribution: tuple[str, ...]):
    suite.write(
        f"""
        import json, pathlib

        @pytest.mark.chaos(ReserveStock={ROUGH["reserve"]}, TakePayment={ROUGH["payment"]}, ShipParcel={ROUGH["ship"]})
        @pytest.mark.parametrize("number", range(3))
        async def test_it(cb_process_batch, number):
            batch = await cb_process_batch(OrderProcess, count=40)
            await batch.wait()
            observed = await batch.observed()
            seen = [[p.ordinal, p.outcome, p.failing_step, dict(p.failures)] for p in observed.processes]
            pathlib.Path(f"seen-{{number}}.json").write_text(json.dumps(seen))
        """
    )
    suite.run("--cb-seed=42", *distribution).assert_outcomes(passed=3)
    seen = [json.loads((suite.pytester.path / f"seen-{number}.json").read_text()) for number in range(3)]
    assert seen[0] == seen[1] == seen[2]
    digest = (
        sum(len(failures) for _, _, _, failures in seen[0]),
        sum(status == "COMPLETED" for _, status, _, _ in seen[0]),
    )
    assert digest == (44, 17)
