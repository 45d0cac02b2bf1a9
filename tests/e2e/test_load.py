"""The load test of the StatementReport application: real statements under chaos, each ending as its seed predicts.

pytest tests/e2e/test_load.py -n 2 --cb-load=10000 --cb-report=build/report.json
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_commandbus.load import LoadTest
from tests.e2e.app import ledger
from tests.e2e.app.files import VARIABLE
from tests.e2e.app.process.statement_report import StatementReportProcess
from tests.e2e.app.rendering import OutputType

PDFS = 300


@pytest.fixture
def report_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for the files of this shard's workers, removed with its tens of thousands of files."""
    with tempfile.TemporaryDirectory(prefix="statement-reports-") as directory:
        monkeypatch.setenv(VARIABLE, directory)
        yield Path(directory)


def statement(ordinal: int) -> dict[str, Any]:
    """Ask for May 2026 of two accounts: the first 300 as PDF, the others as CSV."""
    return {
        "from_date": "2026-05-01",
        "to_date": "2026-05-31",
        "account_list": [ledger.account_number(ordinal), ledger.account_number(ordinal + 1)],
        "output_type": OutputType.PDF if ordinal < PDFS else OutputType.CSV,
    }


@pytest.mark.load
@pytest.mark.chaos(
    query={"fail_transient_pct": 8, "timeout_pct": 3},
    aggregation={"fail_permanent_pct": 2, "fail_transient_pct": 5},
    render={"fail_business_rule_pct": 4, "fail_transient_pct": 10, "timeout_pct": 1},
)
async def test_every_statement_report_ends_as_its_seed_predicts(cb_load: LoadTest, report_dir: Path) -> None:
    """Mixed outcomes on every step, real files at the end."""
    result = await cb_load(StatementReportProcess, initial_data=statement)

    assert result.mismatches == []
    assert sum(result.outcomes.values()) == result.processes
    for pdf in report_dir.glob("*.statement.pdf"):
        assert pdf.read_bytes().startswith(b"%PDF-")
    if result.shards == 1:
        assert len(list(report_dir.glob("*.statement.*"))) == result.outcomes.get("COMPLETED", 0)
