"""`python -m tests.e2e.app.worker`, as a process of its own."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool

from pytest_commandbus.database import Database
from tests.e2e.app.files import VARIABLE
from tests.e2e.app.process.statement_report import StatementReportProcess

ROOT = Path(__file__).parents[2]


@pytest.mark.cb_clock
async def test_it_runs_processes_by_their_behavior_and_stops_when_asked(
    cb_database: Database, cb_pool: AsyncConnectionPool[Any], cb_process_batch: Any, tmp_path: Path
) -> None:
    """Ten processes, a third of whose renderings fail for good; the outcome rolled stands in the trail once each."""

    def asked(ordinal: int) -> dict[str, Any]:
        broken = {"render": {"fail_permanent_pct": 100}, "query": {"fail_transient_times": 1}}
        return {
            "from_date": "2026-05-01",
            "to_date": "2026-05-31",
            "account_list": ["ACC-0001"],
            "output_type": "csv",
            "behavior": broken if ordinal % 3 == 0 else None,
        }

    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.e2e.app.worker", "--concurrency", "4"),
        cwd=ROOT,
        env={**os.environ, "COMMANDBUS_DSN": cb_database.dsn, VARIABLE: str(tmp_path)},
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        batch = await cb_process_batch(StatementReportProcess, count=10, initial_data=asked, workers=0)
        stats = await batch.wait()
        assert (stats.completed_count, stats.in_troubleshooting_count) == (6, 4)
        worker.send_signal(signal.SIGTERM)
        _, output = await asyncio.wait_for(worker.communicate(), 20)
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
    assert worker.returncode == 0, output.decode()
    async with cb_pool.connection() as conn:
        counted = await conn.execute(
            "SELECT details->'chaos'->>'outcome', count(*) FROM commandbus.event"
            " WHERE details->'chaos' IS NOT NULL GROUP BY 1 ORDER BY 1"
        )
        assert await counted.fetchall() == [("permanent", 4), ("success", 4), ("transient", 4)]
    assert len(list(tmp_path.glob("*.statement.csv"))) == 6
