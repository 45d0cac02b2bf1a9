"""How long the auditor takes, statement by statement, over three-step processes that two workers have done.

Run it alone with `python -m benchmarks.audit [PROCESSES]`, or on a database that is there: `--dsn DSN`.
"""

import argparse
import asyncio
import statistics
import time

import psycopg

from benchmarks.harness import Run, worked_off
from benchmarks.systems._protocol import PROCESSES
from commandbus.auditor import LIVENESS_STATEMENTS, SAFETY_STATEMENTS, audit

_RUNS = 5


def seconds(dsn: str, repetitions: int = _RUNS) -> list[float]:
    """Seconds of whole audits."""
    return asyncio.run(_seconds(dsn, repetitions))


async def _seconds(dsn: str, repetitions: int) -> list[float]:
    found = []
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        for _ in range(repetitions):
            began = time.perf_counter()
            await audit(conn, liveness=True)
            found.append(time.perf_counter() - began)
    return found
