"""The tutorial of README.md does what its text says: its files are written, its commands run, their output compared."""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from pytest_commandbus.postgres.dsn import with_database

from .documents import difference, read_blocks
from .reader import SECONDS, SHOP_DATABASE, TEST_SERVER, Reader, functions_of, plain_environment, write_files

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"


@pytest.fixture
def shop_dsn(cb_postgres: str) -> Iterator[str]:
    """A database that nobody has migrated."""
    name = f"cb_readme_{os.getpid()}"
    with psycopg.connect(cb_postgres, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield with_database(cb_postgres, name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.mark.parametrize(
    ("shown", "actual", "found"),
    [
        (["a", "..."], "a\nb\nc", True),
        (["...", "c"], "a\nb\nc", True),
        (["a", "...", "c"], "a\nb\nc", True),
        (["a", "c"], "a\nb\nc", False),
        (["...", "b"], "a\nb\nc", False),
        (["b", "..."], "a\nb\nc", False),
        (["...", "c", "b", "..."], "a\nb\nc", False),
        (["...", "d", "..."], "a\nb\nc", False),
        ([" +10.16 s  worker 2"], "   +12.00 s  worker 1", True),
        ([" +10.16 s  worker 2"], "   +70.00 s  worker 1", False),
        (["parked … s ago"], "parked 17 s ago", True),
        (["parked … s ago"], "parked 17 h ago", False),
        (["2026-11-22T10:00:00.123456+00:00  a  b"], "2027-01-02T03:04:05Z    a     b", True),
    ],
)
def test_shown_output_is_compared_line_by_line(shown: list[str], actual: str, found: bool):
    assert (difference(shown, actual) is None) is found


@pytest.mark.slow
def test_the_tutorial_does_what_its_text_says(tmp_path: Path, cb_postgres: str, shop_dsn: str):
    folder = tmp_path / "a shop"
    folder.mkdir()
    files = write_files(folder, README)
    reader = Reader(folder, {TEST_SERVER: cb_postgres, SHOP_DATABASE: shop_dsn}, plain_environment())
    try:
        for block in read_blocks(README):
            if block.language == "console":
                reader.follow_block(block, README)
        wait_for_the_order(shop_dsn)
    finally:
        ended = reader.stop()
    assert reader.tests_run() == functions_of(files)
    assert [(code, "worker ready: shop:app" in output) for code, output in ended] == [(0, True)]
    assert json.loads((folder / "build" / "load.json").read_text())["outcomes"]["COMPLETED"] > 0


def wait_for_the_order(dsn: str) -> None:
    """Wait until the worker in the background has done the order that was placed."""
    deadline = time.monotonic() + SECONDS
    with psycopg.connect(dsn, autocommit=True) as connection:
        while True:
            row = connection.execute("SELECT status, state ->> 'parcel' FROM commandbus.process").fetchone()
            if row == ("COMPLETED", "P000007"):
                return
            assert time.monotonic() < deadline, f"the order placed is {row}"
            time.sleep(0.05)


def test_the_reference_lists_every_fixture_marker_option_and_ini_key(pytester: pytest.Pytester):
    text = (ROOT / "docs" / "reference" / "plugin.md").read_text(encoding="utf-8")
    told = {
        option: pytester.runpytest_inprocess(option).stdout.str() for option in ("--help", "--markers", "--fixtures")
    }
    options = set(re.findall(r"^  (--cb-[a-z-]+)", told["--help"], re.MULTILINE))
    keys = set(re.findall(r"^  (cb_\w+) \(", told["--help"], re.MULTILINE))
    markers = set(re.findall(r"^@pytest\.mark\.(chaos|load|faults|cb_\w+)", told["--markers"], re.MULTILINE))
    fixtures = set(re.findall(r"^(cb_\w+)(?: \[\w+ scope\])? --", told["--fixtures"], re.MULTILINE))
    for kind, names in {"option": options, "ini key": keys, "marker": markers, "fixture": fixtures}.items():
        listed = set(re.findall(rf"^### `([^`(=\[]+).*<!-- {kind} -->", text, re.MULTILINE))
        assert names, kind
        assert listed == names, f"{kind}: {listed ^ names}"
