"""The reference leaves out nothing public: names, parameters, options, tables, events."""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest

import commandbus
import commandbus.process
import commandbus.sync
from commandbus.cli import main
from commandbus.migrate import migrate

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
REFERENCE = {page.name: page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md")}
ALL = "\n".join(REFERENCE.values())


@pytest.mark.parametrize("module", [commandbus, commandbus.process, commandbus.sync], ids=lambda m: m.__name__)
def test_every_public_name_is_in_the_reference(module: Any):
    missing = [name for name in module.__all__ if not re.search(rf"`[^`]*\b{name}\b[^`]*`|^#+ .*\b{name}\b", ALL, re.M)]
    assert missing == []


def test_every_field_of_every_value_is_in_the_reference():
    """The word alone is looked for: that it stands at its class is for a reader to see."""
    values = [getattr(module, name) for module in (commandbus, commandbus.process) for name in module.__all__]
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]*)`", ALL))))
    for value in filter(dataclasses.is_dataclass, values):
        assert {field.name for field in dataclasses.fields(value)} - words == set(), value.__name__


@pytest.mark.parametrize(
    ("page", "subject"),
    [
        ("bus.md", commandbus.CommandBus),
        ("bus.md", commandbus.ReplyQueue),
        ("troubleshooting-queue.md", commandbus.TroubleshootingQueue),
        ("worker.md", commandbus.App),
        ("worker.md", commandbus.HandlerContext),
        ("worker.md", commandbus.HandlerRegistry),
        ("worker.md", commandbus.Middleware),
        ("worker.md", commandbus.Worker),
        ("process-manager.md", commandbus.process.BaseProcessManager),
        ("process-manager.md", commandbus.process.ProcessReplyRouter),
        ("process-manager.md", commandbus.process.ProcessRepository),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_every_method_is_told_with_its_parameters(page: str, subject: type[Any]):
    own = {name: member for name, member in vars(subject).items() if callable(member) and not name.startswith("_")}
    assert own
    for name, member in own.items():
        if subject is commandbus.process.ProcessRepository and name == "start":
            continue  # the managers' own way in
        parameters = [p for p in inspect.signature(member).parameters if p != "self"]
        told = re.findall(rf"(?<![\w.]){name}\(([^`]*)\)", REFERENCE[page]) + [""] * (f"`{name}`" in REFERENCE[page])
        assert told, f"{page} does not tell {subject.__name__}.{name}"
        names = {frozenset(re.findall(r"(?:^|, )\*?(\w+)", re.sub(r"\(\)|\"[^\"]*\"", "", text))) for text in told}
        assert any(found == set(parameters) for found in names), (
            f"{page}: {name}({', '.join(parameters)}) is told {told}"
        )


def subcommands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from subcommands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def test_every_option_of_the_command_line_is_told():
    text = REFERENCE["command-line.md"]
    headed = re.compile(r"^## `(commandbus(?: [a-z]+)+)[^`]*`\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
    sections = dict(headed.findall(text))
    known = dict(subcommands(main, "commandbus"))
    assert sections.keys() == known.keys()
    for path, command in known.items():
        options = {o for p in command.params if isinstance(p, click.Option) and not p.hidden for o in p.opts}
        listed = set(re.findall(r"^\| `(--[a-z-]+)", sections[path], re.MULTILINE))
        assert listed == options, f"{path}: {listed ^ options}"
        heading = re.search(rf"^## `{path}(.*)`$", text, re.MULTILINE)
        arguments = [p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument)]
        assert heading is not None
        assert heading[1].split() == arguments, path


@pytest.mark.parametrize(
    "states",
    [commandbus.CommandStatus, commandbus.BatchStatus, commandbus.process.ProcessStatus, commandbus.ReplyOutcome],
)
def test_every_state_is_told(states: Any):
    text = REFERENCE["bus.md" if states is commandbus.ReplyOutcome else "states-and-events.md"]
    assert [state for state in states if f"`{state}`" not in text] == []


def test_every_event_that_the_auditor_knows_is_told():
    rules = (ROOT / "src" / "commandbus" / "_core" / "audit_trail_sql.py").read_text(encoding="utf-8")
    known = set(re.findall(r"'([A-Z_]+)'", rules)) - {"HANDLER_NOT_FOUND"}  # a code
    text = REFERENCE["states-and-events.md"]
    table = text[text.index("## Audit events") : text.index("A lease that runs out writes nothing")]
    assert "SENT" in known
    assert {name for row in re.findall(r"^\| (`.*?) \|", table, re.M) for name in re.findall(r"\w+", row)} == known


def test_every_table_is_told(cb_database: Any):
    with psycopg.connect(cb_database.dsn) as connection:
        rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'commandbus'").fetchall()
    text = (DOCS / "explanation" / "how-it-works.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`(\w+)`", text[text.index("## The tables") :]))
    assert {row[0] for row in rows} - told == set()
    assert migrate(cb_database.dsn) == []
