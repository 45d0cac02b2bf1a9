"""The API of load tests: what it sends is what was asked for, and its figures are those of an independent recount."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg_pool import AsyncConnectionPool

from commandbus import Worker, status
from tests.e2e.app.bulk import shares, spread
from tests.e2e.app.handlers.testing import DOMAIN
from tests.e2e.app.main import app
from tests.e2e.conftest import PATIENCE

Pool = AsyncConnectionPool[Any]

# What the audit trail says, apart from every counter: how many commands of each kind of end there are.
RECOUNT = """
SELECT count(*) FILTER (WHERE type = 'COMPLETED'), count(*) FILTER (WHERE type = 'MOVED_TO_TSQ'),
       count(*) FILTER (WHERE type IN ('COMPLETED', 'MOVED_TO_TSQ', 'BUSINESS_RULE_FAILED'))
  FROM commandbus.event
"""
KINDS = """
SELECT coalesce((behavior->>'fail_transient_times')::int, 0), coalesce((behavior->>'fail_permanent_pct')::float8, 0),
       coalesce((behavior->>'min_duration_ms')::int, 0), count(*)
  FROM e2e.test_command GROUP BY 1, 2, 3 ORDER BY 1, 2
"""


async def rows(pool: Pool, statement: Any) -> list[tuple[Any, ...]]:
    async with pool.connection() as conn:
        found: list[tuple[Any, ...]] = await (await conn.execute(statement)).fetchall()
        return found


@given(st.integers(1, 2_000), st.lists(st.integers(0, 100), min_size=2, max_size=2))
def test_a_distribution_is_met_to_the_command_and_evenly(count: int, cuts: list[int]) -> None:
    low, high = sorted(cuts)
    parts = [low, high - low, 100 - high]
    whole = shares(count, parts)
    assert sum(whole) == count
    assert all(abs(one - count * part / 100) < 1 for one, part in zip(whole, parts, strict=True))
    places = spread(whole)
    assert [places.count(kind) for kind in range(3)] == whole
    for kind in range(3):  # in any first half there are about half of them
        assert abs(places[: count // 2].count(kind) - whole[kind] / 2) <= 2


@pytest.mark.slow
@pytest.mark.asyncio
async def test_figures_under_load_are_those_of_a_recount(
    api: httpx.AsyncClient, cb_pool: Pool, cb_worker_pool: Any, cb_clock: Any
) -> None:
    nothing = (await api.get("/api/v1/stats/load-test")).json()
    assert set(nothing.values()) == {0, None}
    parts = {"success": 80, "fail_transient_then_succeed": 10, "fail_permanent": 10}
    asked = {"count": 600, "behavior_distribution": parts, "delay_ms": 2}
    sent = await api.post("/api/v1/commands/bulk", json=asked)
    assert sent.status_code == 201, sent.text
    assert sent.json()["created"] == 600
    assert await rows(cb_pool, KINDS) == [(0, 0, 2, 480), (0, 100, 0, 60), (2, 0, 2, 60)]
    waiting = (await api.get("/api/v1/stats/throughput")).json()
    assert (waiting["queue_depth"], waiting["active_workers"], waiting["commands_processed"]) == (600, 0, 0)

    looks = 0
    async with cb_worker_pool(workers=2, processes=False), asyncio.timeout(PATIENCE):
        while True:
            await cb_clock.skip()  # to the retries, once all else is done
            ((completed, parked, processed),) = await rows(cb_pool, RECOUNT)
            stats = (await api.get("/api/v1/stats/load-test")).json()
            flow = (await api.get("/api/v1/stats/throughput?window=3600")).json()
            ((completed_after, parked_after, processed_after),) = await rows(cb_pool, RECOUNT)
            assert completed <= stats["completed"] <= completed_after
            assert parked <= stats["in_tsq"] <= parked_after
            assert flow["commands_processed"] <= processed_after
            assert stats["pending"] == 600 - stats["completed"] - stats["in_tsq"]
            assert stats["progress_percent"] == pytest.approx(100 * (600 - stats["pending"]) / 600, abs=0.01)
            looks += 0 < processed < 600
            if stats["pending"] == 0 and flow["commands_processed"] == 600:
                break
    assert looks
    assert (stats["completed"], stats["in_tsq"], stats["failed"]) == (540, 60, 0)
    assert flow["throughput_per_second"] == pytest.approx(600 / 3_600, abs=0.001)
    assert flow["queue_depth"] == 0
    assert 0 < flow["p50_ms"] <= flow["p95_ms"] <= flow["p99_ms"]
    again = (await api.get("/api/v1/stats/load-test")).json()
    assert again == stats | {"elapsed_seconds": again["elapsed_seconds"]}
    assert (await api.get("/api/v1/stats/load-test")).json() == again  # what is done takes no longer


@pytest.mark.asyncio
async def test_workers_are_counted_and_stopped(api: httpx.AsyncClient, cb_pool: Pool) -> None:
    workers = [Worker(cb_pool, domain=DOMAIN, handler_registry=app.registry) for _ in range(2)]
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    async with asyncio.timeout(PATIENCE):
        for worker in workers:
            await worker.ready.wait()
        assert (await api.get("/api/v1/stats/throughput")).json()["active_workers"] == 2
        first, second = [worker.worker_id for worker in workers]
        answer = await api.post("/api/v1/workers/stop", json={"domain": DOMAIN, "worker_ids": [first]})
        assert answer.json() == {"stopping": [first]}
        await tasks[0]
        assert [one.worker_id for one in (await status(cb_pool)).domain(DOMAIN).workers] == [second]
        assert (await api.post("/api/v1/workers/stop")).json() == {"stopping": [second]}
        await tasks[1]
    assert (await api.get("/api/v1/stats/throughput")).json()["active_workers"] == 0


@pytest.mark.asyncio
async def test_what_cannot_be_sent_is_refused_whole(api: httpx.AsyncClient, cb_pool: Pool) -> None:
    for body, field in (
        ({"count": 10, "behavior_distribution": {"success": 90, "fail_permanent": 9}}, "behavior_distribution"),
        ({"count": 100_001}, "count"),
        ({"count": 1, "delay_ms": -1}, "delay_ms"),
        ({"count": 1, "behavior_distribution": {"succes": 100}}, "succes"),
    ):
        answer = await api.post("/api/v1/commands/bulk", json=body)
        assert answer.status_code == 422, answer.text
        assert field in [problem["loc"][-1] for problem in answer.json()["detail"]]
    assert await rows(cb_pool, "SELECT count(*) FROM commandbus.command") == [(0,)]
    assert (await api.get(f"/api/v1/stats/load-test?batch_id={uuid4()}")).status_code == 404
    foreign = await api.post("/api/v1/workers/stop", headers={"origin": "http://elsewhere.example"})
    assert foreign.status_code == 403
