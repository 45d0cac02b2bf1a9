"""Pools of workers: stopped gracefully on leaving, and a worker that dies by itself fails the test."""

import asyncio
import os
import signal
import time
from collections.abc import Callable

import psutil
import pytest

from pytest_commandbus.worker_pool import WorkerDiedError

from .conftest import Suite
from .shop import OrderProcess

pytestmark = pytest.mark.usefixtures("measured")

LEASE = 30  # seconds, as a worker has it when nothing is said


@pytest.mark.parametrize("processes", [False, True])
async def test_leaving_stops_the_workers_and_gives_back_what_they_had(
    cb_worker_pool, cb_process_batch, cb_pool, processes
):
    async with cb_worker_pool(workers=2, concurrency=1, processes=processes) as pool:
        batch = await cb_process_batch(OrderProcess, count=30, initial_data={"slow": 0.02})
        await pool.claimed()
        pids = pool.pids if processes else []
        assert pool.running
    assert not pool.running
    async with cb_pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT (SELECT count(*) FROM commandbus.worker WHERE stopped_at IS NULL),"
            " (SELECT count(*) FROM commandbus.queue WHERE worker_id IS NOT NULL)"
        )
        assert await cursor.fetchone() == (0, 0)
    assert (await batch.refresh()).completed_count < 30
    assert not any(psutil.pid_exists(pid) for pid in pids)


async def test_a_worker_process_that_is_killed_from_outside_fails_the_wait(cb_worker_pool, cb_process_batch):
    async with cb_worker_pool(workers=1, processes=True) as pool:
        batch = await cb_process_batch(OrderProcess, count=100, initial_data={"slow": 0.05})
        await pool.claimed()
        os.kill(pool.pids[0], signal.SIGKILL)
        with pytest.raises(WorkerDiedError, match="died by itself by signal SIGKILL"):
            await batch.wait()


async def test_a_worker_process_that_dies_shows_its_output(cb_command_batch):
    batch = await cb_command_batch("mail", "SendMail", data={"to": "crash"}, processes=True, workers=1)
    with pytest.raises(WorkerDiedError, match=r"(?s)died by itself by signal SIGKILL.*the mail server is on fire"):
        await batch.wait()


def test_a_failing_test_tells_of_a_worker_that_died_too(suite: Suite):
    suite.write(
        """
        async def test_it(cb_command_batch, cb_worker_pool, cb_pool):
            await cb_command_batch("mail", "SendMail", data={"to": "crash"}, processes=True, workers=1)
            while True:
                async with cb_pool.connection() as connection:
                    cursor = await connection.execute("SELECT FROM commandbus.event WHERE type = 'RECEIVED'")
                    if cursor.rowcount:
                        break
            assert False, "by itself"
        """
    )
    suite.run().stdout.fnmatch_lines(
        ["*AssertionError: by itself*", "*at the end of the test*", "WorkerDiedError: * died by itself*", "*on fire*"]
    )


async def test_a_worker_in_process_that_dies_shows_its_traceback(cb_worker_pool, cb_process_batch, cb_pool):
    async with cb_pool.connection() as connection:
        await connection.execute("UPDATE commandbus.migration SET checksum = 'edited' WHERE version = 1")
    async with cb_worker_pool():
        batch = await cb_process_batch(OrderProcess)
        with pytest.raises(
            WorkerDiedError, match=r"(?s)worker \d of \w+ died by itself:.*V001__commands.sql was edited"
        ):
            await batch.wait()


@pytest.mark.slow
@pytest.mark.cb_clock
async def test_a_command_that_kills_every_worker_is_parked_by_the_waiting_test(
    cb_command_batch, cb_worker_pool, cb_clock
):
    batch = await cb_command_batch("mail", "SendMail", data={"to": "crash"}, workers=0)
    for lost in (1, 2, 3):
        await cb_clock.advance(LEASE)
        async with cb_worker_pool(workers=1, processes=True) as pool:
            await pool.claimed(lost)
            await pool.kill(0)
    stats = await batch.wait()
    assert stats.in_troubleshooting_count == 1
    (command,) = await batch.commands()
    assert (command.error_code, command.lost_leases) == ("LEASE_LOST", 3)


async def test_a_worker_that_claims_and_dies_while_the_claims_are_counted_has_claimed(
    cb_command_batch, cb_worker_pool, monkeypatch
):
    async with cb_worker_pool(workers=1, processes=True) as pool:
        count = pool._claims

        async def count_before_its_death() -> int:
            claims = await count()
            if not claims:
                await cb_command_batch("mail", "SendMail", data={"to": "crash"}, workers=0)
                await asyncio.to_thread(wait_until, lambda: not pool.pids)
            return claims

        monkeypatch.setattr(pool, "_claims", count_before_its_death)
        await pool.claimed()
        await pool.kill(0)


def test_a_worker_that_died_unnoticed_fails_the_test_at_its_end(suite: Suite):
    suite.write(
        """
        async def test_it(cb_command_batch, cb_worker_pool):
            async with cb_worker_pool(workers=1, processes=True) as pool:
                await cb_command_batch("mail", "SendMail", data={"to": "crash"})
                while pool.pids:
                    await __import__("asyncio").sleep(0.01)
        """
    )
    result = suite.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*WorkerDiedError: worker process * died by itself by signal SIGKILL; its output:*"])


def test_workers_end_when_pytest_is_killed(suite: Suite, cb_postgres: str):
    suite.write(
        """
        import pathlib, time

        async def test_it(cb_worker_pool, cb_process_batch):
            async with cb_worker_pool(workers=2, processes=True) as pool:
                await cb_process_batch(OrderProcess, count=10)
                await pool.claimed()
                pathlib.Path("pids").write_text(" ".join(map(str, pool.pids)))
                time.sleep(600)
        """
    )
    process = suite.start("--cb-postgres=" + cb_postgres)
    pids = suite.pytester.path / "pids"
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    process.kill()
    process.wait()
    wait_until(lambda: not any(psutil.pid_exists(int(pid)) for pid in pids.read_text().split()))


def wait_until(reached: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"not reached within {seconds} s"
        time.sleep(0.02)
