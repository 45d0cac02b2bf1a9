"""cb_clock: waiting takes no real time where it is skipped, and its full time where it is not."""

import asyncio
import time
from typing import Any
from uuid import UUID, uuid4

import pytest

from commandbus import App

from .conftest import Suite
from .shop import OrderProcess, persistent

BACKOFF = 10 + 60 + 300
RETRY_SECONDS = 10  # until the first retry
DEADLINE = 60.0


async def reaches(bus: Any, command_id: UUID, event: str) -> None:
    """Wait until this event stands in the command's audit trail."""
    deadline = time.monotonic() + DEADLINE
    while event not in {entry.event_type for entry in await bus.get_audit_trail(command_id)}:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


class TestWithFourAttempts:
    @pytest.fixture
    def cb_app(self) -> App:
        return persistent

    @pytest.mark.chaos(payment={"fail_transient_times": 3})
    @pytest.mark.parametrize("processes", [False, True])
    async def test_a_backoff_costs_no_real_time(self, cb_process_batch, cb_clock, processes):
        began = time.monotonic()
        batch = await cb_process_batch(OrderProcess, count=10, processes=processes)
        await batch.complete()
        assert cb_clock.skipped >= BACKOFF - 1
        assert time.monotonic() - began < BACKOFF / 2
        timeline = await batch.timeline((await batch.processes())[0].process_id)
        assert (timeline[-1].at - timeline[0].at).total_seconds() >= BACKOFF


@pytest.mark.chaos(payment={"timeout_pct": 100})
async def test_a_rolled_timeout_takes_no_real_time(cb_process_batch):
    began = time.monotonic()
    batch = await cb_process_batch(OrderProcess, count=3)
    assert (await batch.wait()).in_troubleshooting_count == 3
    assert {c for c in [e.code for e in await batch.timeline((await batch.processes())[0].process_id)] if c} == {
        "TIMEOUT"
    }
    assert time.monotonic() - began < 60


async def test_without_chaos_time_is_real(cb_process_batch, cb_clock):
    batch = await cb_process_batch(OrderProcess, count=2)
    await batch.complete()
    assert cb_clock.skipped == 0


async def test_the_clock_is_advanced_by_hand(cb_pool, cb_clock):
    async with cb_pool.connection() as connection:
        await cb_clock.advance(3600)
        cursor = await connection.execute("SELECT extract(epoch FROM commandbus.now() - clock_timestamp())::float8")
        row = await cursor.fetchone()
    assert 3590 < row[0] <= 3600
    assert cb_clock.skipped == 3600


@pytest.mark.parametrize("seconds", [-1, float("nan"), 1e10, "10", True, None])
async def test_a_time_that_is_none_is_refused_and_moves_nothing(cb_clock, seconds: object):
    with pytest.raises(pytest.UsageError, match=r"cb_clock\.advance\(.*\): give a number of seconds from 0 to 3e\+09"):
        await cb_clock.advance(seconds)
    assert cb_clock.skipped == 0


@pytest.mark.parametrize("processes", [False, True])
async def test_advancing_makes_a_retry_due_for_workers_that_wait(cb_worker_pool, cb_bus, cb_clock, processes: bool):
    command_id = uuid4()
    async with cb_worker_pool(workers=1, processes=processes):
        await cb_bus.send(domain="mail", command_type="SendMail", command_id=command_id, data={"to": "busy"})
        await reaches(cb_bus, command_id, "RETRY_SCHEDULED")
        await cb_clock.advance(RETRY_SECONDS)
        await reaches(cb_bus, command_id, "COMPLETED")
    assert [event.attempt for event in await cb_bus.get_audit_trail(command_id)][-1] == 2
    assert cb_clock.skipped == RETRY_SECONDS


@pytest.mark.cb_clock
async def test_by_its_marker_time_is_skipped_without_chaos(cb_command_batch, cb_clock, cb_app: App):
    batch = await cb_command_batch("mail", "SendMail", count=1)
    assert (await batch.complete()).completed_count == 1
    flaky = await cb_command_batch("mail", "NoSuchMail", count=1)
    assert (await flaky.wait()).in_troubleshooting_count == 1


def test_the_marker_takes_no_arguments(suite: Suite):
    suite.write("@pytest.mark.cb_clock(False)\nasync def test_it(cb_bus):\n    pass\n")
    result = suite.run()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*the marker cb_clock takes no arguments: write @pytest.mark.cb_clock*"])
