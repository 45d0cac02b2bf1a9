"""The reference leaves out nothing public: names, parameters, options, tables, events."""

import ast
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
import commandbus.web
from commandbus.auditor import audit
from commandbus.cli import main
from commandbus.history import history
from commandbus.migrate import migrate
from commandbus.prune import prune
from commandbus.status import status

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
REFERENCE = {page.name: page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md")}
ALL = "\n".join(REFERENCE.values())


@pytest.mark.parametrize(
    "module", [commandbus, commandbus.process, commandbus.sync, commandbus.web], ids=lambda m: m.__name__
)
def test_every_public_name_is_in_the_reference(module: Any):
    missing = [name for name in module.__all__ if not re.search(rf"`[^`]*\b{name}\b[^`]*`|^#+ .*\b{name}\b", ALL, re.M)]
    assert missing == []


def test_every_field_of_every_value_is_in_the_reference():
    """The word alone is looked for: that it stands at its class is for a reader to see."""
    values = [
        getattr(module, name) for module in (commandbus, commandbus.process, commandbus.web) for name in module.__all__
    ]
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
        ("web.md", commandbus.web.Site),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_every_method_is_told_with_its_parameters(page: str, subject: type[Any]):
    own = {name: member for name, member in vars(subject).items() if callable(member) and not name.startswith("_")}
    assert own
    for name, member in own.items():
        if subject is not commandbus.process.ProcessRepository or name != "start":  # that is the managers' own way in
            check_parameters(page, name, member)


@pytest.mark.parametrize(
    ("page", "function"),
    [
        ("bus.md", commandbus.BatchCommand),
        ("bus.md", commandbus.CommandBus),
        ("bus.md", commandbus.ReplyQueue),
        ("bus.md", commandbus.SendRequest),
        ("bus.md", commandbus.migrate),
        ("process-manager.md", commandbus.process.BaseProcessManager),
        ("command-line.md", audit),
        ("command-line.md", prune),
        ("process-manager.md", commandbus.process.ProcessCommand),
        ("process-manager.md", commandbus.process.ProcessReplyRouter),
        ("process-manager.md", commandbus.process.ProcessRepository),
        ("status.md", history),
        ("status.md", status),
        ("sync.md", commandbus.sync.SyncCommandBus),
        ("sync.md", commandbus.sync.connect),
        ("troubleshooting-queue.md", commandbus.TroubleshootingFilter),
        ("troubleshooting-queue.md", commandbus.TroubleshootingQueue),
        ("web.md", commandbus.web.create_console),
        ("web.md", commandbus.web.serve),
        ("worker.md", commandbus.App),
        ("worker.md", commandbus.RetryPolicy),
        ("worker.md", commandbus.handler),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_it_is_told_with_its_parameters(page: str, function: Any):
    check_parameters(page, function.__name__, function)


def test_every_parameter_of_a_worker_is_told_with_its_default():
    section = REFERENCE["worker.md"].partition("## Worker\n")[2]
    told = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]+)`? \|", section, re.MULTILINE))
    parameters = inspect.signature(commandbus.Worker).parameters.values()
    for parameter in parameters:
        if parameter.default is not inspect.Parameter.empty:
            default = "RetryPolicy()" if parameter.name == "retry_policy" else f"{parameter.default!r}"
            assert told[parameter.name].replace(",", "") == default.removesuffix(".0"), parameter.name


def check_parameters(page: str, name: str, function: Any) -> None:
    """A page tells name(...) with the names, kinds and defaults that it has; `=...` is told of a longer default."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    known = [(p.name, p.kind is p.KEYWORD_ONLY, p.default) for p in parameters]
    texts = re.findall(rf"(?<!\w){name}(?:`|\(((?:[^()`]|\([^()]*\))*)\))", REFERENCE[page])
    assert texts, f"{page} does not tell {name}"
    found = [parsed for text in texts if (parsed := parse_parameters(text)) is not None]
    assert any(same(told, known) for told in found), f"{page}: {name}{inspect.signature(function)} is told {texts}"


def parse_parameters(text: str) -> list[tuple[str, bool, Any]] | None:
    try:
        arguments = ast.parse(f"def told({text}): ...").body[0].args  # type: ignore[attr-defined]
        defaults = [ast.literal_eval(d) for d in arguments.defaults]
        named = [*arguments.posonlyargs, *arguments.args]
        positional: list[Any] = [inspect.Parameter.empty] * (len(named) - len(defaults)) + defaults
        keyword = [inspect.Parameter.empty if d is None else ast.literal_eval(d) for d in arguments.kw_defaults]
    except (SyntaxError, ValueError):  # an example's call
        return None
    return [
        *((a.arg, False, d) for a, d in zip(named, positional, strict=True)),
        *((a.arg, False, inspect.Parameter.empty) for a in (arguments.vararg,) if a),
        *((a.arg, True, d) for a, d in zip(arguments.kwonlyargs, keyword, strict=True)),
        *((a.arg, False, inspect.Parameter.empty) for a in (arguments.kwarg,) if a),
    ]


def same(told: list[tuple[str, bool, Any]], known: list[tuple[str, bool, Any]]) -> bool:
    """Decorators' own parameters, which are told as `domain=`, have no order."""
    return len(told) == len(known) and all(
        (a[:2] == b[:2]) and (a[2] is ... or a[2] == b[2]) for a, b in zip(told, known, strict=True)
    )


def subcommands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from subcommands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def test_every_option_of_the_command_line_is_told():
    text = REFERENCE["command-line.md"]
    headed = re.compile(r"^## `(commandbus(?: [a-z-]+)+)[^`]*`\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
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
