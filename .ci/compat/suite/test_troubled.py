"""Tests that end badly, each in its own way: what is left for the next one must be nothing."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from shop import OrderProcess

NOTES = Path(os.environ["NOTES"])


def note(text):
    with NOTES.open("a") as notes:
        print(text, file=notes)


def hang():
    """From now on the test does nothing more: pytest-timeout need not wait for its whole time."""
    note("hanging")
    if signal.getsignal(signal.SIGALRM) not in (signal.SIG_DFL, signal.SIG_IGN, None):
        signal.setitimer(signal.ITIMER_REAL, 0.5)


@pytest.mark.chaos(reserve={"fail_transient_pct": 40}, charge={"fail_permanent_pct": 30, "fail_business_rule_pct": 30})
async def test_fails_under_chaos(cb_process_batch, cb_database):
    batch = await cb_process_batch(OrderProcess, count=20, initial_data={"order": 1})
    await batch.wait()
    observed = await batch.observed()
    note(f"database {cb_database.name}")
    note(f"outcomes {[(p.outcome.value, p.failing_step, p.retries) for p in observed.processes]}")
    assert observed == batch.predict()
    await batch.assert_completed()


async def test_hangs(cb_process_batch, cb_worker_pool):
    async with cb_worker_pool(workers=1, processes=True) as pool:
        await cb_process_batch(OrderProcess, count=1, initial_data={"order": 1}, workers=0)
        await pool.claimed(1)
        hang()
        await asyncio.Event().wait()


async def test_hangs_with_workers_in_this_process(cb_process_batch):
    batch = await cb_process_batch(OrderProcess, count=1, initial_data={"order": 1})
    await batch.complete()
    hang()
    await asyncio.Event().wait()


def test_hangs_in_a_plain_function(cb_process_batch, cb_bus):
    cb_process_batch(OrderProcess, count=1, initial_data={"order": 1}).complete()
    hang()
    with cb_bus.watching() as seen:
        seen.assert_sent("ShipParcel", within=600)


async def test_the_next_one_is_fine(cb_process_batch, cb_database):
    batch = await cb_process_batch(OrderProcess, count=2, initial_data={"order": 1})
    assert (await batch.complete()).completed_count == 2
