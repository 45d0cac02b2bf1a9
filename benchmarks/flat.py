"""Whether the bus stays as fast: with a large backlog, with much parked and scheduled, with much stored.

Each question compares two states of servers of their own, in one run.
"""

import time
from collections.abc import Callable
from typing import Any, LiteralString

import psycopg

from benchmarks._trivial import Step, ThreeSteps
from benchmarks.harness import Run, work
from benchmarks.systems._protocol import COMMANDS
from commandbus import migrate
from pytest_commandbus.chaos_rules import ChaosRules, StepNames
from pytest_commandbus.oracle import predict
from pytest_commandbus.postgres.server import EmbeddedPostgres

Connection = psycopg.Connection[Any]

# Commands of one domain as send_batch leaves them, in one statement: due, or waiting, or parked. Their ids are in the
# order of time, as those of uuid7 are.
_FILL: LiteralString = """
    WITH new AS MATERIALIZED (
        SELECT n, (lpad(to_hex((1000 * extract(epoch FROM now()))::bigint), 12, '0')
                   || lpad(to_hex(n), 20, '0'))::uuid AS command_id
          FROM generate_series(1, %(count)s) AS n
    ), commands AS (
        INSERT INTO commandbus.command (command_id, domain, command_type, payload, status, created_at, updated_at)
        SELECT command_id, 'bench', 'First', '{"done": 0}',
               CASE %(place)s WHEN 'parked' THEN 'IN_TROUBLESHOOTING_QUEUE' ELSE 'PENDING' END, now(), now()
          FROM new
    ), queued AS (
        INSERT INTO commandbus.queue (domain, command_id, command_type, queued_at)
        SELECT 'bench', command_id, 'First', now() FROM new WHERE %(place)s = 'due'
    ), waiting AS (
        INSERT INTO commandbus.scheduled (command_id, domain, command_type, epoch, failures, past_failures,
                                          lost_leases, max_attempts, due_at)
        SELECT command_id, 'bench', 'First', 1, 1, 0, 0, 3, now() + interval '1 day' FROM new
         WHERE %(place)s = 'waiting'
    ), parked AS (
        INSERT INTO commandbus.troubleshooting (command_id, domain, command_type, epoch, failures, past_failures,
                                                lost_leases, max_attempts, moved_at, error_code, error_message)
        SELECT command_id, 'bench', 'First', 1, 3, 0, 0, 3, now(), 'X', 'x' FROM new WHERE %(place)s = 'parked'
    )
    INSERT INTO commandbus.event (command_id, type, ts) SELECT command_id, 'SENT', now() FROM new"""

_CLAIM: LiteralString = "SELECT seq FROM commandbus.claim('bench', 1, %(limit)s, '1 hour', 3, %(after)s)"
_CLAIMS, _CLAIMED = 60, 100  # claims, commands in each

# A batch of processes of which half are done, as the bus leaves them.
_BATCH: LiteralString = """
    WITH batch AS (
        INSERT INTO commandbus.batch (batch_id, domain, batch_type, total_count, created_at)
        VALUES (gen_random_uuid(), 'bench', 'PROCESS', %(count)s, now()) RETURNING batch_id
    )
    INSERT INTO commandbus.process (process_id, domain, process_type, status, current_step, state, batch_id, ordinal,
                                    created_at, updated_at, completed_at)
    SELECT gen_random_uuid(), 'bench', 'ThreeSteps', CASE n %% 2 WHEN 0 THEN 'COMPLETED' ELSE 'WAITING_FOR_REPLY' END,
           'First', '{}', b.batch_id, n, now(), now(), CASE n %% 2 WHEN 0 THEN now() END
      FROM batch b, generate_series(1, %(count)s) AS n RETURNING batch_id"""
_REFRESH: LiteralString = "SELECT commandbus.sp_refresh_batch_stats('bench', %(batch_id)s)"


def claim_ratios(*, large: int, small: int = 10_000) -> dict[str, list[float]]:
    """Claim times with a large backlog, and with much waiting and parked, each divided by that with a small one."""
    claims = min(_CLAIMS, small // _CLAIMED)
    with EmbeddedPostgres(durable=True) as one, EmbeddedPostgres(durable=True) as other:
        plain, full = _prepare(one, {"due": small}), _prepare(other, {"due": large})
        backlog = _interleaved(plain, full, claims)
    with EmbeddedPostgres(durable=True) as one, EmbeddedPostgres(durable=True) as other:
        aside = {"waiting": large // 10, "parked": large // 10}
        plain, full = _prepare(one, {"due": small}), _prepare(other, {"due": small, **aside})
        return {"backlog": backlog, "aside": _interleaved(plain, full, claims)}


# Seconds in which the first and the last tenth of the commands were completed; above 0, for one settle may be a tenth.
_TENTHS = """
    SELECT greatest(extract(epoch FROM at[2] - at[1]), 1e-6)::float8,
           greatest(extract(epoch FROM at[4] - at[3]), 1e-6)::float8
      FROM (SELECT percentile_disc('{0,0.1,0.9,1}'::float8[]) WITHIN GROUP (ORDER BY ts) AS at
              FROM commandbus.event WHERE type = 'COMPLETED') AS done"""


def tenths(run: Run, count: int) -> float:
    """Let two worker processes drain so many commands; returns the rate of the last tenth / that of the first."""
    first, last = work(run, COMMANDS, count, ask=_TENTHS).asked
    return first / last


def refresh_ms(count: int, repetitions: int = 9) -> list[float]:
    """Milliseconds of sp_refresh_batch_stats on a batch of `count` processes, half of them done."""
    with EmbeddedPostgres(durable=True) as server:
        migrate(server.dsn())
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            row = conn.execute(_BATCH, {"count": count}).fetchone()
            conn.execute("VACUUM ANALYZE")
            batch_id = row[0] if row else None
            return [1e3 * _seconds(lambda: conn.execute(_REFRESH, {"batch_id": batch_id})) for _ in range(repetitions)]


def oracle_seconds(count: int = 10_000, repetitions: int = 5) -> list[float]:
    """Seconds in which the oracle predicts so many three-step processes under chaos."""
    behavior = {"fail_transient_pct": 10, "max_duration_ms": 50}
    chaos = ChaosRules.from_marker({step.value: behavior for step in Step}, StepNames([Step]))
    return [
        _seconds(lambda: predict(ThreeSteps(None), chaos, count=count, seed=7, batch=1, max_attempts=3))
        for _ in range(repetitions)
    ]


def _prepare(server: EmbeddedPostgres, places: dict[str, int]) -> Connection:
    migrate(server.dsn())
    conn = psycopg.connect(server.dsn(), autocommit=True)
    for place, count in places.items():
        conn.execute(_FILL, {"count": count, "place": place})
    conn.execute("VACUUM ANALYZE")
    conn.execute("CHECKPOINT")
    return conn


def _interleaved(plain: Connection, full: Connection, claims: int) -> list[float]:
    """Claims on both servers in turns; returns the time on `full` divided by that on `plain`, pair by pair."""
    after = [0, 0]
    ratios = []
    with plain, full:
        for _ in range(claims):
            times = []
            for i, conn in enumerate((plain, full)):
                began = time.perf_counter()
                rows = conn.execute(_CLAIM, {"after": after[i], "limit": _CLAIMED}).fetchall()
                times.append(time.perf_counter() - began)
                after[i] = rows[-1][0]
            ratios.append(times[1] / times[0])
    return ratios


def _seconds(doing: Callable[[], object]) -> float:
    began = time.perf_counter()
    doing()
    return time.perf_counter() - began
