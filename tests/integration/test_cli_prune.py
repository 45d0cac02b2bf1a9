"""`commandbus prune`."""

import json
import os
import pty
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from commandbus.migrate import migrate
from tests.integration.bus_history import Bus, write_history
from tests.integration.cli_kit import begun, read_until, refused, run

COUNTS = ("batches", "processes", "commands", "events", "workers", "statistics")


@pytest.fixture
def bus(empty_dsn: str) -> Iterator[Bus]:
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        yield Bus(conn)


def commands(bus: Bus) -> int:
    return int(bus.rows("SELECT count(*) AS n FROM commandbus.command")[0]["n"])


def test_it_tells_what_it_would_delete_then_deletes_it(tmp_path: Path, bus: Bus, empty_dsn: str) -> None:
    write_history(bus)
    before = commands(bus)
    dry = run(tmp_path, "prune", "--older-than", "0s", "--dry-run", "--dsn", empty_dsn)
    assert (dry.returncode, dry.stderr) == (0, "")
    told = dict(re.findall(r"^(\w+): +(\S+)$", dry.stdout, re.MULTILINE))
    assert told.pop("dry_run") == "yes"
    assert commands(bus) == before
    result = run(tmp_path, "prune", "--older-than", "0s", "--json", "--dsn", empty_dsn)
    done = json.loads(result.stdout)
    assert (done.pop("dry_run"), done["finished"]) == (False, True)
    assert {name: str(done[name]) for name in COUNTS} == {name: told[name] for name in COUNTS}
    assert before - commands(bus) == done["commands"] > 0
    assert run(tmp_path, "audit", "--dsn", empty_dsn).returncode == 0
    again = json.loads(run(tmp_path, "prune", "--older-than", "0s", "--json", "--dsn", empty_dsn).stdout)
    assert [again[name] for name in COUNTS] == [0] * len(COUNTS)


def test_ages_and_domains(tmp_path: Path, bus: Bus, empty_dsn: str) -> None:
    bus.send("a")
    bus.settle(bus.claim("a"))
    for options in (["30d"], ["8w"], ["12h"], ["15m"], ["90s"], ["0s", "--domain", "billing"]):
        result = run(tmp_path, "prune", "--older-than", *options, "--json", "--dsn", empty_dsn)
        assert json.loads(result.stdout)["commands"] == 0
    result = run(tmp_path, "prune", "--older-than", "0s", "--domain", "orders", "--json", "--dsn", empty_dsn)
    assert json.loads(result.stdout)["commands"] == 1


@pytest.mark.parametrize("age", ["30", "d", "-1d", "1.5h", "30 days", "1y", "9999999d"])
def test_what_is_no_age_is_told(tmp_path: Path, migrated_dsn: str, age: str) -> None:
    refused(run(tmp_path, "prune", f"--older-than={age}", "--dsn", migrated_dsn), 2, repr(age), "30d")


def test_an_age_must_be_given(tmp_path: Path, migrated_dsn: str) -> None:
    result = run(tmp_path, "prune", "--dsn", migrated_dsn)
    assert result.returncode == 2
    assert "--older-than" in result.stderr


def test_a_domain_that_can_be_none_is_told(tmp_path: Path, migrated_dsn: str) -> None:
    refused(run(tmp_path, "prune", "--older-than", "1d", "--domain", "a b", "--dsn", migrated_dsn), 2, "no valid name")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_between_two_transactions(
    tmp_path: Path, bus: Bus, empty_dsn: str, number: signal.Signals
) -> None:
    two_batches(bus)
    with psycopg.connect(empty_dsn) as other:
        other.execute("SELECT FROM commandbus.batch WHERE batch_id = %s FOR UPDATE", (bus.ids["second"],))
        with begun(tmp_path, empty_dsn, "prune", "--older-than", "0s", "--json") as process:
            wait_until_blocked(bus)
            process.send_signal(number)
            out, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors == f"stopped by {number.name}\n"
    done = json.loads(out)
    assert (done["finished"], done["batches"], done["commands"]) == (False, 1, 1)
    assert commands(bus) == 1
    assert run(tmp_path, "audit", "--dsn", empty_dsn).returncode == 0


def two_batches(bus: Bus) -> None:
    for name in ("first", "second"):
        bus.send(f"{name} member", batch_id=str(bus.batch(name, 1)))
        bus.settle(bus.claim(f"{name} member"))
        bus.refresh(name)


def test_on_a_terminal_it_shows_how_far_it_is(tmp_path: Path, bus: Bus, empty_dsn: str) -> None:
    two_batches(bus)
    master, terminal = pty.openpty()
    with psycopg.connect(empty_dsn) as other:
        other.execute("SELECT FROM commandbus.batch WHERE batch_id = %s FOR UPDATE", (bus.ids["second"],))
        asked = ("prune", "--older-than", "0s", "--json")
        with begun(tmp_path, empty_dsn, *asked, stderr=terminal, environment={"TERM": "xterm"}) as process:
            os.close(terminal)
            read_until(master, "1 commands, 0 processes, 1 batches")
            other.rollback()
            out, _ = process.communicate(timeout=60)
    os.close(master)
    assert (process.returncode, json.loads(out)["batches"]) == (0, 2)


def wait_until_blocked(bus: Bus) -> None:
    """Wait until a statement on the database waits for a lock."""
    for _ in range(2_000):
        if bus.rows(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' LIMIT 1"
        ):
            return
        bus.rows("SELECT pg_sleep(0.01)")
    raise AssertionError("nothing waits for a lock")
