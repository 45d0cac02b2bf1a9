"""The password of the server is nowhere to be read: in no output, log, report, error, or table of the server."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from click.testing import CliRunner

from commandbus.cli import main
from pytest_commandbus.postgres.server import EmbeddedPostgres

from .conftest import Suite

FAILING = """
    import logging
    import pathlib
    import psycopg

    @pytest.mark.chaos(TakePayment={"fail_permanent_pct": 100})
    async def test_that_fails(cb_process_batch, cb_worker_pool, cb_pool):
        logging.getLogger().setLevel(logging.DEBUG)
        async with cb_worker_pool(workers=1, processes=True):
            batch = await cb_process_batch(OrderProcess, count=2)
            await batch.wait()
            async with cb_pool.connection() as connection:
                rows = await (await connection.execute("SELECT a::text FROM pg_stat_activity a")).fetchall()
            pathlib.Path("activity.txt").write_text(repr(rows))
            await batch.complete()

    async def test_that_waits_in_vain(cb_process_batch):
        await (await cb_process_batch(OrderProcess, workers=0)).wait(timeout=0.1)

    async def test_whose_database_is_gone(cb_process_batch, cb_pool, cb_database):
        batch = await cb_process_batch(OrderProcess, workers=0)
        async with cb_pool.connection() as connection:
            await connection.execute("ALTER TABLE commandbus.batch RENAME TO lost")
        await batch.wait(timeout=5)

    def test_that_shows_what_it_has(cb_database, cb_pool, cb_bus, cb_postgres):
        assert [cb_database, cb_pool, cb_bus, cb_postgres] == []

    @pytest.mark.load
    async def test_load(cb_load):
        assert (await cb_load(OrderProcess)).outcomes == {}
"""


@pytest.mark.slow
def test_a_run_with_failures_shows_it_nowhere(suite: Suite) -> None:
    suite.write(FAILING)
    with EmbeddedPostgres(tcp=True) as server:
        password = password_of(server)
        suite.dsn = server.dsn(tcp=True)
        result = suite.run_process(
            *["-n", "2", "-vv", "-rA", "--showlocals", "--log-level=DEBUG", "--junitxml=junit.xml"],
            *["--cb-keep", "--cb-load=4", "--cb-report=report.json"],
        )
        log = server.log()
    result.assert_outcomes(failed=6)
    files = [path for path in suite.pytester.path.rglob("*") if path.is_file()]
    assert {"activity.txt", "junit.xml", "report.json"} <= {path.name for path in files}
    texts = {"stdout": result.stdout.str(), "stderr": result.stderr.str(), "the server's log": log}
    texts |= {path.name: path.read_text(errors="replace") for path in files}
    assert [(where, line) for where, text in texts.items() for line in text.splitlines() if password in line] == []


@pytest.mark.parametrize("form", ["url", "words"])
def test_the_command_line_shows_it_nowhere(form: str, tmp_path: Path) -> None:
    """Also where the server refuses it, or the connection string is broken behind it."""
    password = "canary&77 of a mine"
    url = f"postgresql://nobody:{quote(password)}@127.0.0.1:1/shop"
    words = f"host=127.0.0.1 port=1 user=nobody dbname=shop password='{password}'"
    dsn = url if form == "url" else words
    for arguments in (["migrate", "--roles"], ["tsq", "list"]):
        for given in (dsn, f"{dsn} oops='", f"{dsn}?oops=1"):
            result = CliRunner().invoke(main, [*arguments, "--dsn", given])
            assert result.exit_code in {1, 2}
            assert isinstance(result.exception, SystemExit), "a traceback would show what it likes"
            for shown in (password, quote(password), "canary"):
                assert shown not in result.output
    command = [sys.executable, "-m", "commandbus", "tsq", "list", "--dsn", f"{dsn} oops='"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, timeout=60)
    assert process.returncode in {1, 2}
    assert "canary" not in process.stdout + process.stderr


def password_of(server: EmbeddedPostgres) -> str:
    return str(psycopg.conninfo.conninfo_to_dict(server.dsn(tcp=True))["password"])
