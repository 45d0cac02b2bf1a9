"""What became of the processes of a batch, in the form of the oracle's prediction, so that the two can be compared."""

from collections import Counter
from typing import Any

from psycopg_pool import AsyncConnectionPool

from commandbus.process import ProcessStatus

from . import statements
from .oracle import Prediction, ProcessPrediction


async def observe(pool: AsyncConnectionPool[Any], batch_number: int) -> Prediction:
    """Return what became of each process of the test's batch of this number, over all its shards, by ordinal."""
    async with pool.connection() as connection:
        rows = await (await connection.execute(statements.OBSERVED, {"number": batch_number})).fetchall()
    processes = tuple(
        ProcessPrediction(ordinal, ProcessStatus(status), step, failures, retries)
        for ordinal, status, step, failures, retries in rows
    )
    return Prediction(processes, Counter(p.outcome for p in processes), sum(p.retries for p in processes))
