"""docs/reference/configuration.md tells all that can be set, with the defaults that the code has."""

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest

import commandbus
import commandbus.sync
import commandbus.web
from commandbus.cli import main

from .command_lines import DOCUMENTS, ROOT, lines_of, variables

PAGE = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "tests" / "e2e" / "app"
NOTHING = {"", "none", "off", "drawn"}


def table(heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, each cell without its backticks."""
    _, _, section = PAGE.partition(f"\n{heading}\n")
    rows = re.findall(r"^\|(.*)\|$", re.split(r"\n##", section)[0], re.MULTILINE)[2:]
    return [[cell.strip().strip("`") for cell in row.split("|")] for row in rows]


def same(told: str, default: Any) -> bool:
    """Whether a default is told as it is: numbers by their value, words as they stand."""
    if default in (None, False, (), []) and told in NOTHING | {str(default)}:
        return True
    try:
        return bool(ast.literal_eval(told) == default)
    except (ValueError, SyntaxError):
        return told == str(default)


def defaults(function: Any) -> dict[str, Any]:
    return {name: one.default for name, one in inspect.signature(function).parameters.items()}


def options(command: click.Command) -> dict[str, Any]:
    found = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    return {one.opts[0]: one.get_default(click.Context(command)) for one in found}


def test_a_worker() -> None:
    rows = table("## A worker")
    known, offered = defaults(commandbus.Worker), options(main.commands["worker"])
    assert {name for name, *_ in rows} - {""} == known.keys()
    assert {option for _, option, *_ in rows if option.startswith("--")} == offered.keys()
    for name, option, told, _ in rows:
        if name == "retry_policy":
            assert told == f"{commandbus.RetryPolicy.__name__}()"
        elif name and known[name] is not inspect.Parameter.empty:
            assert same(told, known[name]), name
        if option in ("--concurrency", "--processes", "--visibility-timeout", "--poll-interval", "--log-format"):
            assert same(told, offered[option]), option


def test_how_often_a_command_is_tried() -> None:
    rows = table("### How often a command is tried")
    assert {name: told for name, told, _ in rows}.keys() == defaults(commandbus.RetryPolicy).keys()
    for name, told, _ in rows:
        assert same(told, defaults(commandbus.RetryPolicy)[name]), name


@pytest.mark.parametrize("subject", [commandbus.CommandBus, commandbus.sync.SyncCommandBus, commandbus.App])
def test_who_sends(subject: Any) -> None:
    rows = {name: told for which, name, told, _ in table("## Who sends") if which == subject.__name__}
    known = {name: default for name, default in defaults(subject).items() if default is not inspect.Parameter.empty}
    assert rows.keys() == known.keys()
    assert all(same(told, known[name]) for name, told in rows.items())


def test_the_console() -> None:
    rows = table("## The console")
    fields = {field.name: field.default for field in dataclasses.fields(commandbus.web.ConsoleSettings)}
    offered = options(main.commands["console"])
    assert {name for name, *_ in rows} - {""} == fields.keys()
    assert {option for _, option, *_ in rows if option.startswith("--")} == offered.keys()
    for name, option, told, _ in rows:
        if name and name not in ("allowed_hosts", "secret"):
            assert same(told, fields[name]), name
        elif option in ("--host", "--port"):
            assert same(told, offered[option]), option


def test_the_plugin(pytestconfig: pytest.Config) -> None:
    rows = table("## The plugin")
    parser = pytestconfig._parser
    (group,) = (group for group in parser._groups if group.name == "commandbus")
    offered = {one.names()[0]: one.attrs().get("default") for one in group.options}
    keys: Mapping[str, Any] = {name: told for name, told in parser._inidict.items() if name.startswith("cb_")}
    assert {option for option, *_ in rows} - {""} == offered.keys()
    assert {key for _, key, *_ in rows} - {""} == keys.keys()
    for option, key, told, _ in rows:
        if key:
            assert same(told, keys[key][2]) or (key == "cb_postgres" and keys[key][2] == ""), key
        else:
            assert same(told, offered[option]), option


def read_by(file: Path) -> Iterator[str]:
    """The environment variables that a module reads, by their names or by a constant of its own."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        name: ast.expr | None = None
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            name = node.slice
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.environ.get", "os.getenv"):
            name = node.args[0]
        elif isinstance(node, ast.keyword) and node.arg == "envvar":
            name = node.value
        if name is not None:
            yield str(name.value if isinstance(name, ast.Constant) else constants[ast.unparse(name)])


def test_every_environment_variable_is_told_and_no_other() -> None:
    cells = [row[0] for row in table("## Environment variables")]
    told = {name for cell in cells for name in re.findall(r"[A-Z_]{4,}", cell) if not name.startswith("PG")}
    files = [*(ROOT / "src").rglob("*.py"), *EXAMPLE.rglob("*.py")]
    assert told == {name for file in files for name in read_by(file)}
    shown = {name for document in DOCUMENTS for line in lines_of(document) for name in variables(line)}
    ours = {name for name in shown if name.startswith(("CB_", "COMMANDBUS_"))}
    assert ours
    assert ours <= told
