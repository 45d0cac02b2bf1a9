"""`commandbus batch`: list, show, watch, cancel."""

import json
import os
import pty
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest

from commandbus.migrate import migrate
from tests.integration.bus_history import Bus
from tests.integration.cli_kit import begun, read_until, refused, run

PROCESS_APP = """
from dataclasses import dataclass
from enum import StrEnum
from commandbus import App
from commandbus.process import BaseProcessManager, ProcessCommand

class Step(StrEnum):
    ONE = "one"

@dataclass
class State:
    pass

class Order(BaseProcessManager):
    process_type = "Order"
    domain = "orders"
    state_class = State
    step_class = Step

    def get_first_step(self, state): return Step.ONE
    def build_command(self, step, state): return ProcessCommand("Reserve", {})
    def update_state(self, state, step, response): pass
    def get_next_step(self, current_step, response, state): return None

app = App()
app.add_process(Order)
empty = App()
"""


@pytest.fixture
def bus(empty_dsn: str) -> Iterator[Bus]:
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        yield Bus(conn)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an application that has a process manager."""
    (tmp_path / "ordering.py").write_text(PROCESS_APP)
    return tmp_path


def commands_batch(bus: Bus, name: str, count: int) -> UUID:
    batch = bus.batch(name, count)
    bus.send(*(f"{name} {n}" for n in range(count)), batch_id=str(batch))
    bus.rows("UPDATE commandbus.command SET ordinal = 0 WHERE batch_id = %(id)s", id=batch)
    bus.rows("UPDATE commandbus.command c SET ordinal = o.n FROM (SELECT command_id, row_number() OVER () AS n FROM"
             " commandbus.command WHERE batch_id = %(id)s) o WHERE o.command_id = c.command_id", id=batch)  # fmt: skip
    return batch


def test_show_recounts(folder: Path, bus: Bus, empty_dsn: str) -> None:
    batch = commands_batch(bus, "may", 3)
    bus.settle(bus.claim("may 0"))
    bus.park("may 1")
    result = run(folder, "batch", "show", str(batch), "--dsn", empty_dsn)
    assert (result.returncode, result.stderr) == (0, "")
    shown = dict(re.findall(r"^(\w+): +(\S+)$", result.stdout, re.MULTILINE))
    assert shown["batch_id"] == str(batch)
    assert (shown["status"], shown["total_count"], shown["completed_count"]) == ("IN_PROGRESS", "3", "1")
    found = json.loads(run(folder, "batch", "show", str(batch), "--json", "--dsn", empty_dsn).stdout)
    assert (found["batch_type"], found["in_troubleshooting_count"]) == ("COMMAND", 1)


def test_batches_are_listed_in_pages(folder: Path, bus: Bus, empty_dsn: str) -> None:
    for name in ("first", "second", "third"):
        commands_batch(bus, name, 1)
    bus.settle(bus.claim("second 0"))
    page = json.loads(run(folder, "batch", "list", "--limit", "2", "--json", "--dsn", empty_dsn).stdout)
    assert [found["batch_id"] for found in page["items"]] == [str(bus.ids["third"]), str(bus.ids["second"])]
    assert [found["completed_count"] for found in page["items"]] == [0, 1]
    cursor = page["next_cursor"]
    page = json.loads(run(folder, "batch", "list", "--cursor", cursor, "--json", "--dsn", empty_dsn).stdout)
    assert ([found["batch_id"] for found in page["items"]], page["next_cursor"]) == ([str(bus.ids["first"])], None)
    result = run(folder, "batch", "list", "--status", "COMPLETED", "--dsn", empty_dsn)
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["BATCH_ID", str(bus.ids["second"])]
    assert "1 of 1" in lines[1]
    result = run(folder, "batch", "list", "--type", "PROCESS", "--json", "--dsn", empty_dsn)
    assert json.loads(result.stdout)["items"] == []
    refused(run(folder, "batch", "list", "--cursor", "x", "--dsn", empty_dsn), 2, "next_cursor")


def test_watch_writes_a_line_for_each_change_until_the_end(folder: Path, bus: Bus, empty_dsn: str) -> None:
    batch = commands_batch(bus, "may", 2)
    with begun(folder, empty_dsn, "batch", "show", str(batch), "--watch", "--interval", "0.05", "--json") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "0 of 2: PENDING\n"
        with bus.conn.transaction():  # at once, so that no look falls between
            bus.settle(bus.claim("may 0"))
        assert process.stderr.readline() == "1 of 2: IN_PROGRESS, 1 completed\n"
        bus.settle(bus.claim("may 1"), "BUSINESS_RULE_FAILED")
        out, errors = process.communicate(timeout=60)
    assert errors == "2 of 2: COMPLETED_WITH_FAILURES, 1 completed, 1 failed\n"
    assert process.returncode == 0
    assert json.loads(out)["failed_count"] == 1


def test_watch_shows_a_bar_on_a_terminal(folder: Path, bus: Bus, empty_dsn: str) -> None:
    batch = commands_batch(bus, "may", 2)
    bus.settle(bus.claim("may 0"))
    master, terminal = pty.openpty()
    watching = ("batch", "show", str(batch), "--watch", "--interval", "0.05", "--json")
    with begun(
        folder, empty_dsn, *watching, stderr=terminal, environment={"TERM": "xterm", "COLUMNS": "100", "NO_COLOR": "1"}
    ) as process:
        os.close(terminal)
        shown = read_until(master, "1/2")
        assert "50%" in shown
        bus.settle(bus.claim("may 1"))
        shown += read_until(master, "\x1b[?25h")  # the bar is gone, the cursor is back
        out, _ = process.communicate(timeout=60)
    os.close(master)
    assert process.returncode == 0
    assert json.loads(out)["status"] == "COMPLETED"
    assert re.findall(r"\x1b\[(?:\d+;)*(?:3[0-8]|9[0-7])(?:;\d+)*m", shown) == []  # no colours, as NO_COLOR asks


def test_ctrl_c_ends_watch(folder: Path, bus: Bus, empty_dsn: str) -> None:
    batch = commands_batch(bus, "may", 1)
    with begun(folder, empty_dsn, "batch", "show", str(batch), "--watch") as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (130, "", "stopped by SIGINT\n")


def test_cancel_a_batch_of_commands(folder: Path, bus: Bus, empty_dsn: str) -> None:
    batch = commands_batch(bus, "may", 5)
    bus.settle(bus.claim("may 0"))
    bus.claim("may 1")
    options = ["--reason", "wrong month", "--operator", "ann", "--dsn", empty_dsn]
    result = run(folder, "batch", "cancel", str(batch), *options)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == "cancelled 3 members; 1 in flight end first\n"
    trail = json.loads(run(folder, "audit", str(bus.ids["may 3"]), "--json", "--dsn", empty_dsn).stdout)
    assert trail["command"]["status"] == "CANCELED"
    assert trail["events"][-1]["details"] == {"operator": "ann", "reason": "wrong month"}
    result = run(folder, "batch", "cancel", str(batch), "--json", *options)
    assert json.loads(result.stdout) == {"canceled": 0, "in_flight": 1}
    assert run(folder, "audit", "--dsn", empty_dsn).returncode == 0


def test_what_has_ended_cannot_be_cancelled(folder: Path, bus: Bus, empty_dsn: str) -> None:
    batch = commands_batch(bus, "may", 1)
    bus.settle(bus.claim("may 0"))
    refused(run(folder, "batch", "cancel", str(batch), "--dsn", empty_dsn), 1, str(batch), "COMPLETED")


def test_cancel_a_batch_of_processes(folder: Path, bus: Bus, empty_dsn: str) -> None:
    batch = bus.batch("orders", 4, "PROCESS")
    for name in ("one", "two"):
        bus.start(name, batch)
    for options in ([], ["--app", "ordering:empty"]):
        result = run(folder, "batch", "cancel", str(batch), *options, "--dsn", empty_dsn)
        refused(result, 1, "'Order'", "--app MODULE:APP")
    result = run(folder, "batch", "cancel", str(batch), "--app", "ordering:app", "--dsn", empty_dsn)
    assert (result.returncode, result.stdout) == (0, "cancelled 2 members\n")
    found = json.loads(run(folder, "batch", "show", str(batch), "--json", "--dsn", empty_dsn).stdout)
    assert (found["status"], found["total_count"], found["canceled_count"]) == ("COMPLETED_WITH_FAILURES", 2, 2)
    assert run(folder, "audit", "--at-rest", "--dsn", empty_dsn).returncode == 0


@pytest.mark.parametrize("command", ["show", "cancel"])
def test_a_batch_that_there_is_not(folder: Path, migrated_dsn: str, command: str) -> None:
    nobody = str(uuid4())
    refused(run(folder, "batch", command, nobody, "--dsn", migrated_dsn), 1, nobody, "--dsn", "pruned")
    assert run(folder, "batch", command, "no-id", "--dsn", migrated_dsn).returncode == 2


def test_an_application_that_cannot_be_loaded(folder: Path, migrated_dsn: str) -> None:
    result = run(folder, "batch", "cancel", str(uuid4()), "--app", "nowhere:app", "--dsn", migrated_dsn)
    refused(result, 2, "no module 'nowhere'")
