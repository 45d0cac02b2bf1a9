"""Workers that are asked to stop from afar: what they still do, who ends, and who goes on."""

import asyncio
from pathlib import Path

import pytest

from commandbus import Command, CommandStatus, HandlerContext, migrate, status, stop_workers
from commandbus.status import WorkerStatus
from tests.integration.cli_kit import refused, run, send, wait_until_done, worker, write_shop
from tests.integration.cli_kit import status as status_of
from tests.integration.worker_kit import Bench, eventually

LONG = 60.0  # seconds until a test gives up


async def seen(bench: Bench) -> dict[int, WorkerStatus]:
    """The workers of the test's domain that run, by their ids."""
    found = (await status(bench.pool, bench.domain)).domain(bench.domain).workers
    return {one.worker_id: one for one in found if one.is_alive}


@pytest.mark.asyncio
async def test_those_that_are_asked_end_what_they_have_begun_and_no_more(bench: Bench) -> None:
    begun, may_end = asyncio.Event(), asyncio.Event()

    @bench.handler("Long")
    async def long(command: Command, context: HandlerContext) -> dict[str, bool]:
        begun.set()
        await may_end.wait()
        return {"whole": True}

    workers = [bench.make_worker(concurrency=1) for _ in range(2)]
    tasks = [asyncio.create_task(one.run()) for one in workers]
    try:
        for one in workers:
            await asyncio.wait_for(one.ready.wait(), LONG)
        ids = sorted(one.worker_id for one in workers if one.worker_id is not None)
        running = await bench.send("Long")
        await asyncio.wait_for(begun.wait(), LONG)
        assert await stop_workers(bench.pool, bench.domain) == ids
        assert all(one.stop_requested_at is not None for one in (await seen(bench)).values())
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=LONG)  # the one with nothing to do
        assert [task.done() for task in tasks].count(True) == 1
        for one in workers:
            await eventually(lambda one=one: _was_asked(one), "both to hear of it", patience=LONG)
        late = await bench.send("Long")
        may_end.set()
        await asyncio.wait_for(asyncio.gather(*tasks), LONG)
    finally:
        may_end.set()
        for one in workers:
            await one.stop(0)
    assert (await bench.bus.get_command(running)).result == {"whole": True}
    assert (await bench.bus.get_command(late)).status is CommandStatus.PENDING
    assert await seen(bench) == {}
    assert await stop_workers(bench.pool, bench.domain) == []


async def _was_asked(worker: object) -> bool | None:
    return getattr(worker, "was_asked") or None  # noqa: B009


@pytest.mark.asyncio
async def test_one_is_asked_by_its_id_and_the_others_go_on(bench: Bench) -> None:
    @bench.handler("Ping")
    async def ping(command: Command, context: HandlerContext) -> None: ...

    async with bench.worker() as stays:
        leaves = bench.make_worker()
        leaving = asyncio.create_task(leaves.run())
        await asyncio.wait_for(leaves.ready.wait(), LONG)
        assert leaves.worker_id is not None
        assert await stop_workers(bench.pool, "no-such-domain", worker_ids=[leaves.worker_id]) == []
        async with bench.pool.connection() as conn:  # in a transaction that is rolled back nobody was asked
            assert await stop_workers(conn, worker_ids=[leaves.worker_id]) == [leaves.worker_id]
            await conn.rollback()
        assert (await seen(bench))[leaves.worker_id].stop_requested_at is None
        assert await stop_workers(bench.pool, worker_ids=[leaves.worker_id, 2**31 - 1]) == [leaves.worker_id]
        await asyncio.wait_for(leaving, LONG)
        assert list(await seen(bench)) == [stays.worker_id]
        await bench.until(await bench.send("Ping"))


@pytest.mark.slow
def test_the_command_line_stops_a_domain_and_then_supervised_processes_for_good(tmp_path: Path, empty_dsn: str) -> None:
    folder = write_shop(tmp_path)
    migrate(empty_dsn)
    refused(run(folder, "stop", "--dsn", empty_dsn), 2, "ids, --domain NAME, --all")
    refused(run(folder, "stop", "3", "--all", "--dsn", empty_dsn), 2, "ids, --domain NAME, --all")
    assert run(folder, "stop", "--all", "--dsn", empty_dsn).stdout == "no such worker runs\n"
    with worker(folder, empty_dsn, "--processes", "2", "--poll-interval", "0.2") as running:
        stopped = run(folder, "stop", "--domain", "orders", "--wait", "60", "--dsn", empty_dsn)
        assert (stopped.returncode, stopped.stdout.count("worker ")) == (0, 2), stopped.stderr
        left = send(empty_dsn, "orders", "Slow", {"seconds": 0})
        wait_until_done(empty_dsn, send(empty_dsn, "billing", "Where"))  # by the other workers of these processes
        assert running.process.poll() is None
        told = run(folder, "status", "--dsn", empty_dsn).stdout
        assert told.count("  yes  ") == 2, told
        assert run(folder, "stop", "--all", "--wait", "60", "--json", "--dsn", empty_dsn).returncode == 0
        exit_code, errors = running.end()
    log = "".join(running.log) + errors
    assert (exit_code, "started again" in log, log.count(": exit code 0")) == (0, False, 2), log
    assert status_of(empty_dsn, left)[0] == "PENDING"
