"""`commandbus audit`: what it finds, how it says so, and the trails that it shows."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from commandbus.migrate import migrate
from tests.integration.bus_history import Bus, write_history
from tests.integration.cli_kit import refused, run
from tests.integration.servers import Server


@pytest.fixture(scope="module")
def history(postgres_server: Server) -> tuple[str, Bus]:
    """A database in which everything has happened, for tests that only read; and the ids of what is in it."""
    dsn = postgres_server.create("cli_history")
    migrate(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        bus = Bus(conn)
        write_history(bus)
    return dsn, bus


@pytest.fixture
def broken(empty_dsn: str) -> Iterator[tuple[str, Bus]]:
    """A database with an error of two rules: a command that nobody sent, completed."""
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        bus = Bus(conn)
        bus.send("[bold]a[/bold]")
        bus.settle(bus.claim("[bold]a[/bold]"))
        bus.rows("DELETE FROM commandbus.event WHERE type = 'SENT'")
        yield empty_dsn, bus


def test_a_sound_database(tmp_path: Path, history: tuple[str, Bus]) -> None:
    result = run(tmp_path, "audit", "--dsn", history[0])
    assert (result.returncode, result.stdout, result.stderr) == (0, "nothing wrong\n", "")
    result = run(tmp_path, "audit", "--json", "--dsn", history[0])
    assert (result.returncode, json.loads(result.stdout)) == (0, [])


def test_what_is_broken_is_listed_by_rule(tmp_path: Path, broken: tuple[str, Bus]) -> None:
    dsn, bus = broken
    (command_id,) = bus.ids.values()
    result = run(tmp_path, "audit", "--dsn", dsn)
    assert (result.returncode, result.stderr) == (1, "")
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["RULE", "SUBJECT", "MESSAGE"]
    assert lines[1].split()[:2] == ["S3", str(command_id)]
    assert "RECEIVED cannot follow nothing" in lines[1]
    assert lines[-1].startswith("S3: a command's events form a legal path")
    result = run(tmp_path, "audit", "--json", "--dsn", dsn)
    assert result.returncode == 1
    assert [(found["rule"], found["subject"]) for found in json.loads(result.stdout)] == [("S3", str(command_id))]


def test_other_domains_are_left_out(tmp_path: Path, broken: tuple[str, Bus]) -> None:
    assert run(tmp_path, "audit", "--domain", "billing", "--dsn", broken[0]).returncode == 0
    assert run(tmp_path, "audit", "--domain", "orders", "--dsn", broken[0]).returncode == 1


def test_what_must_hold_at_rest_is_asked_for(tmp_path: Path, history: tuple[str, Bus]) -> None:
    result = run(tmp_path, "audit", "--at-rest", "--json", "--dsn", history[0])
    assert result.returncode == 1
    assert {found["rule"] for found in json.loads(result.stdout)} >= {"L1"}


def test_the_trail_of_a_command(tmp_path: Path, history: tuple[str, Bus]) -> None:
    dsn, bus = history
    command_id = str(bus.ids["failing"])
    result = run(tmp_path, "audit", command_id, "--dsn", dsn)
    assert (result.returncode, result.stderr) == (0, "")
    head, _, table = result.stdout.partition("\n\n")
    fields = dict(re.findall(r"^(\w+): +(\S+)$", head, re.MULTILINE))
    assert (fields["command_id"], fields["status"]) == (command_id, "IN_TROUBLESHOOTING_QUEUE")
    assert fields["error_code"] == "NO_STOCK"
    events = [line.split()[2] for line in table.splitlines()[1:]]
    assert events == ["SENT", *["RECEIVED", "RETRY_SCHEDULED"] * 2, "RECEIVED", "MOVED_TO_TSQ"]
    assert "2 of 3" in table
    found = json.loads(run(tmp_path, "audit", command_id, "--json", "--dsn", dsn).stdout)
    assert found["command"]["command_id"] == command_id
    assert [event["event_type"] for event in found["events"]] == events


def test_the_trail_of_a_process(tmp_path: Path, history: tuple[str, Bus]) -> None:
    dsn, bus = history
    process_id = str(bus.ids["undone"])
    result = run(tmp_path, "audit", process_id, "--dsn", dsn)
    assert (result.returncode, result.stderr) == (0, "")
    head, _, table = result.stdout.partition("\n\n")
    fields = dict(re.findall(r"^(\w+): +(\S+)$", head, re.MULTILINE))
    assert (fields["process_id"], fields["status"]) == (process_id, "CANCELED")
    lines = table.splitlines()
    assert lines[0].split()[:4] == ["STEP", "COMMAND_ID", "COMMAND_TYPE", "STATUS"]
    assert [line.split("  ")[0] for line in lines[1:]] == ["one", "two", "three", "undo two", "undo one"]
    assert lines[3].endswith("  NO_STOCK")
    assert lines[4].endswith(f"undoes {bus.ids['undone.two']}")
    found = json.loads(run(tmp_path, "audit", process_id, "--json", "--dsn", dsn).stdout)
    assert found["process"]["status"] == "CANCELED"
    assert [entry["status"] for entry in found["trail"]] == [
        "COMPLETED",
        "COMPLETED",
        "FAILED",
        "COMPLETED",
        "COMPLETED",
    ]


def test_an_id_that_nothing_has(tmp_path: Path, history: tuple[str, Bus]) -> None:
    nobody = str(uuid4())
    refused(run(tmp_path, "audit", nobody, "--dsn", history[0]), 1, f"has the id {nobody}", "--dsn", "pruned")


def test_what_does_not_fit_is_told(tmp_path: Path, history: tuple[str, Bus]) -> None:
    refused(run(tmp_path, "audit", str(uuid4()), "--at-rest", "--dsn", history[0]), 2, "--at-rest")
    result = run(tmp_path, "audit", "no-id", "--dsn", history[0])
    assert result.returncode == 2
    assert "'no-id' is not a valid UUID" in result.stderr
