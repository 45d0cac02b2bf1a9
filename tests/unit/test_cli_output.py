"""What the command line prints, from values alone."""

import io
import json
import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import click
import pytest
from click.testing import CliRunner

from commandbus.cli.output import json_option, print_json, print_record, print_table, row_of, shown
from commandbus.models import AuditEvent, CommandStatus

AN_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
NOON = datetime(2026, 5, 1, 14, 0, 0, 123, tzinfo=timezone(timedelta(hours=2)))
ROWS: list[dict[str, Any]] = [
    {"command_id": AN_ID, "status": CommandStatus.PENDING, "attempts": 3, "at": NOON, "data": {"n": 1}},
    {"command_id": None, "status": "x", "attempts": None, "at": None, "data": None},
]


class Terminal(io.StringIO):
    """A stdout on which someone looks."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("", "-"),
        (0, "0"),
        (True, "yes"),
        (1234.5, "1,234.5"),
        (2.0, "2"),
        (CommandStatus.PENDING, "PENDING"),
        (NOON, "2026-05-01T12:00:00Z"),
        ({"a": [AN_ID], "s": "ü"}, f'{{"a": ["{AN_ID}"], "s": "ü"}}'),
        ("two\nlines", "two\\nlines"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
    ],
)
def test_a_value_is_one_line_without_control_characters(value: object, text: str) -> None:
    assert shown(value) == text


def test_columns_are_aligned_when_piped(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(ROWS, ["command_id", "attempts", "status"], as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "COMMAND_ID                            ATTEMPTS  STATUS",
        f"{AN_ID}  3         PENDING",
        "-                                     -         x",
    ]


def test_a_table_without_rows_has_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([], ["command_id", "status"], as_json=False)
    assert capsys.readouterr().out == "COMMAND_ID  STATUS\n"


def test_json_has_whole_rows(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(ROWS, ["status"], as_json=True)
    first, second = json.loads(capsys.readouterr().out)
    assert first == {
        "command_id": str(AN_ID),
        "status": "PENDING",
        "attempts": 3,
        "at": "2026-05-01T14:00:00.000123+02:00",
        "data": {"n": 1},
    }
    assert second["command_id"] is None


def test_on_a_terminal_cells_fold_and_nothing_is_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    print_table([{"id": str(AN_ID), "note": "[bold]not markup[/bold]"}], ["id", "note"], as_json=False)
    lines = re.sub("\x1b\\[[0-9;]*m", "", terminal.getvalue()).splitlines()
    assert "[bold]" in "".join(lines)
    assert "…" not in "".join(lines)
    assert all(len(line) <= 40 for line in lines)


def test_on_a_terminal_an_id_stays_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody is going to copy it."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm")
    rows = [{"command_id": AN_ID, "note": "many words that are folded " * 3, "more": "and some more words"}]
    print_table(rows, ["command_id", "note", "more"], as_json=False)
    assert str(AN_ID) in terminal.getvalue()


def test_a_record_is_one_field_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_record({"batch_id": AN_ID, "total": 5}, as_json=False)
    assert capsys.readouterr().out == f"batch_id: {AN_ID}\ntotal:    5\n"
    print_record({"batch_id": AN_ID, "total": 5}, as_json=True)
    assert json.loads(capsys.readouterr().out) == {"batch_id": str(AN_ID), "total": 5}


def test_dataclasses_are_rows(capsys: pytest.CaptureFixture[str]) -> None:
    event = AuditEvent(7, AN_ID, "SENT", datetime(2026, 5, 1, tzinfo=UTC), details={"by": "me"})
    assert row_of(event)["event_type"] == "SENT"
    print_json({"events": (event,), "waited": timedelta(seconds=1.5), "types": {"b", "a"}})
    printed = json.loads(capsys.readouterr().out)
    assert printed["events"][0]["details"] == {"by": "me"}
    assert (printed["waited"], printed["types"]) == (1.5, ["a", "b"])


def test_what_has_no_json_is_a_bug() -> None:
    with pytest.raises(TypeError, match="no JSON for object"):
        print_json([object()])


def test_json_is_an_option() -> None:
    @click.command()
    @json_option
    def command(as_json: bool) -> None:
        print_table([], ["x"], as_json=as_json)

    assert CliRunner().invoke(command, ["--json"]).output == "[]\n"
    assert CliRunner().invoke(command, []).output == "X\n"
