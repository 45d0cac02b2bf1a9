"""Workers for whom the server has too few connections are refused before they start, with the arithmetic."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from pytest_commandbus.connections import OF_TEST, Demand, Room
from pytest_commandbus.postgres.server import EmbeddedPostgres

from .conftest import Suite

DOMAINS = 2  # of the shop
IN_PROCESS = 2 * DOMAINS * 3 + 1 + OF_TEST
"""What a test with two workers needs: for each domain two connections and one to listen; one for handlers."""
RESERVED = 3
BUSY = """
    @pytest.mark.parametrize("number", range(2))
    async def test_it(cb_process_batch, number):
        batch = await cb_process_batch(OrderProcess, count=4{more})
        assert (await batch.complete()).completed_count == 4
"""


@contextmanager
def server_of(suite: Suite, max_connections: int) -> Iterator[None]:
    """Let the suite run on a server with so many connections."""
    with EmbeddedPostgres(settings={"max_connections": str(max_connections)}) as server:
        suite.dsn = server.dsn()
        yield


def test_the_last_one_that_fits_runs_and_the_next_is_refused(suite: Suite):
    suite.write(BUSY.format(more=""))
    with server_of(suite, IN_PROCESS + RESERVED):
        suite.run().assert_outcomes(passed=2)
        with psycopg.connect(suite.dsn):
            result = suite.run("--tb=short")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "E   *UsageError: the workers need more connections than PostgreSQL has free.",
            f"E   needed: 2 workers x 2 domains x 3 + 1 for handlers + {OF_TEST} of the test = {IN_PROCESS}",
            f"E   free: max_connections {IN_PROCESS + RESERVED} - 3 reserved - 1 of others = {IN_PROCESS - 1}",
            f"E   Start fewer workers (workers=1), or raise max_connections to {IN_PROCESS + RESERVED + 1} or more.",
        ]
    )


@pytest.mark.slow
def test_xdist_workers_count_each(suite: Suite):
    suite.write(BUSY.format(more=""))
    with server_of(suite, 2 * IN_PROCESS + RESERVED):
        suite.run("-n2").assert_outcomes(passed=2)
        with psycopg.connect(suite.dsn):
            result = suite.run("-n2")
    result.assert_outcomes(failed=2)
    text = result.stdout.str()
    assert (
        f"needed: 2 xdist workers x (2 workers x 2 domains x 3 + 1 for handlers + 5 of the test) = {2 * IN_PROCESS}"
        in text
    )
    assert "Start fewer workers (workers=1), or use fewer xdist workers (-n 1), or raise max_connections" in text


def test_worker_processes_count_each_and_share_what_there_is(suite: Suite):
    suite.write(BUSY.format(more=", processes=True, workers=2, concurrency=50"))
    needed = 2 * (DOMAINS * 3 + 1) + OF_TEST
    with server_of(suite, needed + RESERVED):
        suite.run().assert_outcomes(passed=2)
        with psycopg.connect(suite.dsn):
            result = suite.run()
    result.assert_outcomes(failed=2)
    assert (
        f"needed: 2 worker processes x (2 domains x 3 + 1 for handlers) + 5 of the test = {needed}"
        in result.stdout.str()
    )


def test_a_load_test_is_refused_before_it_creates_anything(suite: Suite):
    suite.write(
        """
        @pytest.mark.load
        async def test_it(cb_load, cb_pool):
            try:
                await cb_load(OrderProcess, workers=30, processes=True)
            finally:
                async with cb_pool.connection() as connection:
                    cursor = await connection.execute("SELECT count(*) FROM commandbus.process")
                    print("created:", *await cursor.fetchone())
        """
    )
    with server_of(suite, 100):
        result = suite.run("--cb-load=100")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*needed: 30 worker processes x (2 domains x 3 + 1 for handlers)*", "created: 0"])


@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("domains", [1, 2, 5])
def test_what_is_granted_fits_and_what_is_advised_is_granted(processes: bool, shards: int, workers: int, domains: int):
    demand = Demand(workers, domains, processes=processes, beside=4, shards=shards)
    for free in range(demand.total - 40, demand.total + 40):
        room = Room(free + 5, reserved=3, others=2)
        if free >= demand.total:
            pool = demand.pool_size(room, wanted=10_000)
            pools = workers if processes else 1
            listening = workers * domains
            assert pool > (1 if processes else workers) * domains * 2
            assert shards * (pools * pool + listening + 4 + OF_TEST) <= free
            assert demand.pool_size(room, wanted=1) == 1
            continue
        with pytest.raises(pytest.UsageError) as refused:
            demand.pool_size(room, wanted=1)
        advice = str(refused.value)
        if found := re.search(r"workers=(\d+)", advice):
            fewer = int(found[1])
            assert fewer < workers
            Demand(fewer, domains, processes=processes, beside=4, shards=shards).check(room)
        if found := re.search(r"-n (\d+)", advice):
            Demand(workers, domains, processes=processes, beside=4, shards=int(found[1])).check(room)
        raised = int(re.search(r"max_connections to (\d+)", advice)[1])
        demand.check(Room(raised, reserved=3, others=2))
