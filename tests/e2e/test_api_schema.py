"""The API does what its OpenAPI document says: schemathesis sends what the document allows, and what it does not."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_commandbus.database import Database
from tests.console.conftest import Served
from tests.e2e.app.asgi import create_asgi

pytestmark = pytest.mark.slow

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


@pytest.fixture
def served(cb_database: Database) -> Iterator[Served]:
    """The application on the test's database, at an address."""
    with Served(cb_database.dsn, create_asgi) as found:
        yield found


@pytest.mark.parametrize(
    "options",
    [
        # not the bulk: the largest valid count is tried often, and is 100,000
        ["--phases=coverage", "--exclude-path=/api/v1/commands/bulk", "--max-examples=3"],
        ["--phases=fuzzing", "--max-examples=10"],
    ],
    ids=["every-field", "generated"],
)
def test_schemathesis_finds_nothing(served: Served, tmp_path: Path, options: list[str]) -> None:
    # A valid request may ask for an account that the ledger does not have, which is refused: that is no finding.
    checks = ["--exclude-checks=positive_data_acceptance", "--request-timeout=60", "--seed=7", "--no-color"]
    found = subprocess.run(
        [SCHEMATHESIS, "run", f"{served.url}/openapi.json", *checks, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert "13 passed" in found.stdout or "12 passed" in found.stdout, found.stdout
