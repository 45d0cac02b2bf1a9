"""The figures of a load run, read from an audit trail whose times are known: wall time, whatever the clock skipped."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from pytest_commandbus import behavior_sql
from pytest_commandbus.load_ledger import LoadLedger
from pytest_commandbus.load_result import figures
from pytest_commandbus.load_series import AttemptFigures

BEGAN = datetime(2026, 5, 1, 10, tzinfo=UTC)
SKIPPED_BEFORE = 1000.0  # by another run of the same test
ADD = """
INSERT INTO commandbus.event (command_id, type, ts, epoch, worker_id, details)
VALUES (%(command_id)s, %(type)s, %(ts)s, %(epoch)s, %(worker_id)s, %(details)s)
"""


class Trail:
    """A load run of one batch, written by hand. Times are those of the bus, in seconds since the run began."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._batch_id = uuid4()
        connection.execute(
            "INSERT INTO e2e.load_run (run, batch_number, processes, shards, started_at, skipped_before)"
            " VALUES (2, 5, 2, 1, %s, make_interval(secs => %s))",
            (BEGAN, SKIPPED_BEFORE),
        )
        connection.execute(
            "INSERT INTO e2e.load_shard (run, shard, first_ordinal, processes, taken_at, created_at, finished_at)"
            " VALUES (2, 0, 0, 2, %s, %s, %s)",
            (BEGAN, BEGAN + timedelta(seconds=0.5), BEGAN + timedelta(seconds=4.8)),
        )
        connection.execute("INSERT INTO e2e.test_batch (batch_id, number) VALUES (%s, 5)", (self._batch_id,))
        self.move(at=-50, skipped=SKIPPED_BEFORE)

    def move(self, at: float, skipped: float) -> None:
        """The clock was moved at a wall time, in seconds since the run began."""
        self._connection.execute(
            "INSERT INTO e2e.clock_move (moved_at, skipped) VALUES (%s, make_interval(secs => %s))",
            (BEGAN + timedelta(seconds=at), skipped),
        )
        self._connection.execute("UPDATE e2e.clock SET skipped = make_interval(secs => %s)", (skipped,))

    def process(self, status: str, created: float, ended: float, is_parked: bool = False) -> UUID:
        process_id = uuid4()
        self._connection.execute(
            "INSERT INTO commandbus.process (process_id, domain, process_type, status, state, batch_id, created_at,"
            " updated_at, completed_at) VALUES (%s, 'd', 'P', %s, '{}', %s, %s, %s, %s)",
            (process_id, status, self._batch_id, bus(created), bus(ended), None if is_parked else bus(ended)),
        )
        return process_id

    def command(self, process_id: UUID, step: str, events: Sequence[tuple[Any, ...]]) -> None:
        """Write a command and its events: (type, time, epoch, worker, details)."""
        command_id = uuid4()
        self._connection.execute(
            "INSERT INTO commandbus.command (command_id, domain, command_type, payload, process_id, step, created_at,"
            " updated_at) VALUES (%s, 'd', %s, '{}', %s, %s, %s, %s)",
            (command_id, step, process_id, step, bus(0), bus(0)),
        )
        for event in events:
            kind, at, epoch, worker_id, details = (*event, None, None, None)[:5]
            row = {"type": kind, "ts": bus(at), "epoch": epoch, "worker_id": worker_id}
            self._connection.execute(ADD, {**row, "command_id": command_id, "details": json.dumps(details)})


def bus(seconds: float) -> datetime:
    return BEGAN + timedelta(seconds=SKIPPED_BEFORE + seconds)


@pytest.fixture
def trail(e2e_dsn: str) -> Iterator[Trail]:
    with psycopg.connect(e2e_dsn, autocommit=True) as connection:
        yield Trail(connection)


async def read(dsn: str) -> dict[str, Any]:
    async with AsyncConnectionPool(dsn, min_size=1, open=False) as pool, pool.connection() as connection:
        async with connection.transaction():
            measured = await LoadLedger(pool, 2, 5).measure(connection)
    assert all(isinstance(row, AttemptFigures) for row in measured.attempts)
    return figures(measured, seed=1, environment={"test": "a", "run": 2}, limits={"p99_ms": 400, "max_failed_pct": 50})


@pytest.mark.asyncio
async def test_figures_are_in_wall_time_and_split(trail: Trail, e2e_dsn: str) -> None:
    """At 2.0 s of wall time the clock went on by 10 s: what it calls 12.0 is 2.0."""
    trail.move(at=2.0, skipped=SKIPPED_BEFORE + 10)
    process = trail.process("COMPLETED", created=0.0, ended=14.5)
    retried = {"code": "AGAIN", "delay": 10.5}  # due at 12.0, the moment that the clock was moved to
    trail.command(
        process,
        "First",
        [
            ("SENT", 0.0),
            ("RECEIVED", 1.0, 1, 7),
            ("LEASE_EXTENDED", 1.2, 1, 7),
            ("RETRY_SCHEDULED", 1.5, 1, 7, retried),
            ("RECEIVED", 12.25, 2, 8),
            ("COMPLETED", 12.75, 2, 8),
        ],
    )
    trail.command(process, "Second", [("SENT", 12.75), ("RECEIVED", 13.75, 1, 7), ("COMPLETED", 14.5, 1, 7)])
    result = await read(e2e_dsn)
    first, second = result["steps"]["First"], result["steps"]["Second"]
    assert first["outcomes"] == {"RETRY_SCHEDULED": 1, "COMPLETED": 1}
    assert first["waiting_ms"] == {"p50": 625.0, "p95": 962.5, "p99": 992.5}  # 1,000 and 250
    assert first["handling_ms"] == {"p50": 500.0, "p95": 500.0, "p99": 500.0}
    assert first["latency_ms"] == {"p50": 2750.0, "p95": 2750.0, "p99": 2750.0}
    assert (second["waiting_ms"]["p50"], second["handling_ms"]["p50"], second["latency_ms"]["p50"]) == (1000, 750, 1750)
    assert result["latency_ms"]["p99"] == 4500
    assert (result["run_seconds"], result["total_seconds"], result["created_seconds"]) == (3.5, 4.8, 0.5)
    assert (result["retries"], result["workers"], result["peak_backlog"]) == (1, 2, 1)
    assert result["environment"]["started_at"] == "2026-05-01 10:00:00 UTC"
    assert result["thresholds"] == [
        {"name": "p99_ms", "limit": 400, "figure": 750.0, "passed": False, "step": "Second"},
        {"name": "max_failed_pct", "limit": 50, "figure": 50.0, "passed": True},
    ]
    series = result["series"]
    assert (series["bucket_seconds"], len(series["backlog"])) == (0.05, 96)
    assert [n for n, rate in enumerate(series["processes_per_second"]) if rate] == [90]
    assert {n: rate for n, rate in enumerate(series["commands_per_second"]) if rate} == {55: 20, 90: 20}
    assert [n for n, value in enumerate(series["handling_ms"]["p50"]) if value is not None] == [30, 55, 90]
    assert series["backlog"] == [1] * 91 + [0] * 5


@pytest.mark.asyncio
async def test_attempts_that_came_to_nothing_are_left_out(trail: Trail, e2e_dsn: str) -> None:
    """A released one, and one whose lease ran out; nobody knows when the next one was due after that."""
    parked = trail.process("WAITING_FOR_TSQ", created=0.0, ended=4.0, is_parked=True)
    trail.command(
        parked,
        "Only",
        [
            ("SENT", 0.0),
            ("RECEIVED", 0.25, 1, 7),
            ("RELEASED", 0.5, 1, 7, {"code": "HANDLER_NOT_FOUND", "delay": 1.0}),
            ("RECEIVED", 1.75, 2, 7),
            ("RECEIVED", 3.0, 3, 8),
            ("LATE_OUTCOME_DROPPED", 3.1, 2, 7),
            ("RETRY_SCHEDULED", 3.25, 3, 8, {"delay": 0.5}),
            ("RECEIVED", 3.75, 4, 8),
            ("MOVED_TO_TSQ", 4.0, 4, 8),
        ],
    )
    result = await read(e2e_dsn)
    only = result["steps"]["Only"]
    assert only["outcomes"] == {"RETRY_SCHEDULED": 1, "MOVED_TO_TSQ": 1}
    assert only["waiting_ms"]["p99"] == 0
    assert only["handling_ms"]["p99"] == 250
    assert only["latency_ms"] == {"p50": 4000.0, "p95": 4000.0, "p99": 4000.0}
    assert result["latency_ms"]["p50"] == 4000
    assert result["outcomes"] == {"WAITING_FOR_TSQ": 1}


def test_moves_of_the_clock_are_kept_with_their_wall_time(e2e_dsn: str) -> None:
    with psycopg.connect(e2e_dsn, autocommit=True) as connection:

        def one(statement: Any, **values: Any) -> tuple[Any, ...]:
            row = connection.execute(statement, values).fetchone()
            assert row is not None
            return tuple(row)

        (before,) = one("SELECT clock_timestamp()")
        connection.execute(behavior_sql.ADVANCE_CLOCK, {"seconds": 0})
        connection.execute(behavior_sql.ADVANCE_CLOCK, {"seconds": 30})
        connection.execute(
            "INSERT INTO commandbus.scheduled (command_id, domain, command_type, epoch, failures, past_failures,"
            " lost_leases, due_at) SELECT gen_random_uuid(), 'd', 't', 1, 1, 0, 0, commandbus.now() + interval '1 hour'"
        )
        (skipped,) = one(behavior_sql.SKIP_CLOCK)
        (after,) = one("SELECT clock_timestamp()")
        moves = connection.execute(
            "SELECT moved_at, extract(epoch FROM skipped)::float8 FROM e2e.clock_move ORDER BY skipped"
        ).fetchall()
    assert [total for _, total in moves] == pytest.approx([0, 30, 30 + skipped])
    assert 3590 < skipped <= 3600
    moments = [at for at, _ in moves]
    assert [before, *moments, after] == sorted([before, *moments, after])


MOMENTS = [(-1, -1), (1.9, 1.9), (2, 2), (7, 2), (12, 2), (13.5, 3.5), (15, 5), (39.9, 5), (40, 5), (41, 6)]


@pytest.mark.parametrize(("at", "wall"), MOMENTS)
def test_what_the_clock_passed_over_happened_when_it_was_moved(e2e_dsn: str, at: float, wall: float) -> None:
    """It was moved by 10 s at 2 s, and by 25 more at 5 s."""
    with psycopg.connect(e2e_dsn) as connection:
        row = connection.execute("SELECT e2e.wall(%s, '{12, 40}', '{0, 10, 35}', '{2, 5}')", (at,)).fetchone()
        assert row == (wall,)
        assert connection.execute("SELECT e2e.wall(%s, '{}', '{0}', '{}')", (at,)).fetchone() == (at,)
