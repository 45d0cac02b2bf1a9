"""`commandbus status`: what it prints for people and for programs, and how it ends."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from commandbus import migrate
from tests.integration.cli_kit import command_line, refused, run, send, worker, write_shop


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_shop(tmp_path)


@pytest.fixture
def database(empty_dsn: str) -> str:
    migrate(empty_dsn)
    return empty_dsn


def told(folder: Path, dsn: str, *arguments: str) -> dict[str, Any]:
    result = run(folder, "status", "--json", "--dsn", dsn, *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def until(folder: Path, dsn: str, look: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = monotonic() + 30
    while not look(found := told(folder, dsn)):
        assert monotonic() < deadline, f"waited in vain, last seen: {found}"
        sleep(0.1)
    return found


def test_a_bus_at_rest(folder: Path, database: str) -> None:
    result = run(folder, "status", "--dsn", database)
    assert (result.returncode, result.stderr) == (0, "")
    head, replies, domains = result.stdout.splitlines()
    assert head.endswith("UTC; rates and latencies over 60 s")
    assert (replies, domains) == ("no reply waits for its consumer", "no domain has a live command or a worker")
    found = told(folder, database, "--window", "10")
    assert (found["window"], found["domains"], found["waiting_replies"]) == (10, [], 0)


def test_a_backlog_and_a_domain_of_ones_own(folder: Path, database: str) -> None:
    for domain in ("orders", "orders", "billing"):
        send(database, domain, "Any")
    both = run(folder, "status", "--dsn", database).stdout
    lines = [line.split() for line in both.splitlines()]
    assert ["billing", "1"] in [line[:2] for line in lines]
    assert ["orders", "2"] in [line[:2] for line in lines]
    assert "~" not in both
    assert [d["domain"] for d in told(folder, database, "--domain", "billing")["domains"]] == ["billing"]


@pytest.mark.slow
def test_what_a_worker_did_and_what_it_left(folder: Path, database: str) -> None:
    with worker(folder, database, "--concurrency", "3") as running:
        for _ in range(5):
            send(database, "billing", "Where")
        send(database, "orders", "Slow", {"seconds": "long"})
        found = until(folder, database, lambda s: bool(s["domains"] and all(d["types"] for d in s["domains"])))
        billing, orders = found["domains"]
        assert (billing["domain"], billing["types"][0]["ran"]["count"]) == ("billing", 5)
        assert orders["parked"] == {"Slow": 1}
        assert [w["pid"] for w in billing["workers"]] == [running.process.pid]
        text = run(folder, "status", "--dsn", database).stdout
        assert max(map(len, text.splitlines())) <= 80
        assert "billing: Where" in text
        assert "orders  Slow" in text
        running.end(signal.SIGTERM)
    ended = told(folder, database)
    assert [(d["domain"], d["workers"]) for d in ended["domains"]] == [("billing", []), ("orders", [])]


def test_watching_goes_on_until_ctrl_c(folder: Path, database: str) -> None:
    process = subprocess.Popen(
        command_line("status", "--watch", "0.1", "--json"),
        cwd=folder,
        env={**os.environ, "COMMANDBUS_DSN": database},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["domains"] == []
        send(database, "orders", "Any")
        deadline = monotonic() + 30
        while not json.loads(process.stdout.readline())["domains"]:
            assert monotonic() < deadline
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, errors) == (130, "stopped by SIGINT\n")


def test_what_is_asked_wrongly(folder: Path, database: str) -> None:
    refused(run(folder, "status", "--dsn", database, "--domain", "no domain"), 2, "domain", "no domain")
    assert run(folder, "status", "--dsn", database, "--window", "0").returncode == 2
    assert run(folder, "status", "--dsn", database, "--watch", "0").returncode == 2


def test_a_database_without_the_schema(folder: Path, empty_dsn: str) -> None:
    refused(run(folder, "status", "--dsn", empty_dsn), 1, "migrate")
