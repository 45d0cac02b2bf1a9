"""The load, in small: `make load` runs it at length."""

import asyncio

import pytest
from batch_report_runner import load


def test_percentiles():
    assert [load.percentile([float(n) for n in range(1, 101)], percent) for percent in (50, 95, 99)] == [51, 96, 100]
    assert load.percentile([7.0], 99) == 7


@pytest.mark.slow
async def test_it_prints_how_long_clients_waited(capsys):
    assert await asyncio.to_thread(load.main, ["--clients=12", "--leads=30", "--latency=0.3"]) == 0
    told = capsys.readouterr().out
    assert "30 leads, 12 clients: the batch is COMPLETED" in told
    rows = {
        line.split()[0]: line.split() for line in told.splitlines() if line.startswith(("preview", "start", "status"))
    }
    assert all(int(row[1]) > 0 and row[2] == "0" for row in rows.values())
    assert len(rows) == 3
