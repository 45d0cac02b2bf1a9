"""The page of errors tells every message of the code, and no other."""

import re
from pathlib import Path

import pytest

from commandbus import CommandBusError, errors
from tests.unit.messages import literals, messages

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = [ROOT / "src" / "commandbus", ROOT / "src" / "pytest_commandbus", ROOT / "migrations"]
PAGE = ROOT / "docs" / "reference" / "errors.md"
UNSEEN = {  # message -> why no user meets it
    "no integer that a column holds": "becomes an InvalidCursorError",
    "a time without its zone": "becomes an InvalidCursorError",
    "no JSON for …": "what the command line prints has a form",
    "a slot runs as a task": "guards a type",
    "nothing is about to be sent": "guards a type",
    "a look at the bus found nothing": "guards a type",
    "the audit found nothing wrong": "is no error",
}


def phrases(page: str) -> list[str]:
    """The parts of messages that the tables show: each row's code spans in the column that is headed "message"."""
    found: list[str] = []
    column = None
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split(" | ")] if line.startswith("|") else []
        if not cells or "message" in cells:
            column = cells.index("message") if cells else None
        elif column is not None:
            found += re.findall(r"`([^`]+)`", cells[column])
    return found


@pytest.fixture(scope="module")
def page() -> list[str]:
    return phrases(PAGE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """Each message of the code, with a place that makes it."""
    return {message.text: message.place for folder in FOLDERS for message in messages(folder)}


def test_every_message_has_its_row(page: list[str], made: dict[str, str]):
    assert len(made) > 300, "the messages are not found any more"
    untold = [f"{place}: {text}" for text, place in made.items() if not _is_told(text, page) and text not in UNSEEN]
    assert not untold, "\n".join(["add to docs/reference/errors.md rows with a part of each of these:", *untold])
    assert set(UNSEEN) <= set(made), "no message of the code: take it out of UNSEEN"


def test_every_row_has_its_message(page: list[str], made: dict[str, str]):
    texts = "\n".join([*map(literals, FOLDERS), *made])
    gone = [phrase for phrase in page if phrase not in texts]
    assert not gone, "\n".join(["no message has these any more, take them out of docs/reference/errors.md:", *gone])
    short = [phrase for phrase in page if len(re.findall(r"[^\W\d_]{2,}", phrase)) < 2]
    assert not short, f"these would fit too many messages: {short}"
    assert len(page) == len(set(page)), [phrase for phrase in set(page) if page.count(phrase) > 1]


def test_every_class_of_error_is_told_and_can_be_caught():
    page = PAGE.read_text(encoding="utf-8")
    classes = [found for name, found in vars(errors).items() if name.endswith("Error")]
    assert len(classes) > 15
    for found in classes:
        assert issubclass(found, CommandBusError)
        assert found.__doc__, found
        assert f"`{found.__name__}`" in page, found


def _is_told(text: str, page: list[str]) -> bool:
    return any(phrase in text for phrase in page)
