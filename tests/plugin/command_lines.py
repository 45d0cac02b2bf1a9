"""Reads the command lines that a text shows or names, and asks the parsers of our programs whether they would do."""

import argparse
import ast
import importlib
import itertools
import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from commandbus.cli import main as commandbus
from commandbus.cli.failures import Misuse

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(file for suffix in ("md", "rst") for file in (ROOT / "docs").rglob(f"*.{suffix}")),
        *(ROOT / "benchmarks").glob("*.md"),
        *(ROOT / "examples").rglob("README.md"),
        *(ROOT / "changelog.d").glob("*.md"),
    ]
)

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_OURS = re.compile(r"(?:[A-Z_]+=\S* )*(?:\S*/)?(?:commandbus|pytest|python3?|make|pip) ")
_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*=")
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_.]*|\[.*|\.\.\.|…|FOLDER.*")  # in the place of a value
# Programs of others, whose options are not ours to know.
_OTHERS = {"cat", "cd", "curl", "cut", "dask", "docker", "echo", "grep", "kill", "mv", "openssl", "pre-commit", "psql"}
_OTHERS |= {"rm", "sha256sum", "touch", "towncrier"}
_NO_PARSER = {"tests.simulator": 1, "build": 2}  # modules that read their arguments by themselves: how many they take


class WrongLineError(Exception):
    """A command line that its program would refuse."""


@dataclass(frozen=True)
class Line:
    """A command line and where it stands. One that a sentence only names may leave out what has to follow."""

    text: str
    where: str
    only_named: bool


def lines_of(document: Path) -> Iterator[Line]:
    """Yield the command lines of a document: those of its sh and console blocks, and those within sentences."""
    text = document.read_text(encoding="utf-8")

    def where(place: int) -> str:
        return f"{document.relative_to(ROOT)}:{text.count(chr(10), 0, place) + 1}"

    for block in _FENCE.finditer(text):
        body = block["text"].replace("\\\n", " ")
        if block["language"] in ("console", "sh"):
            wanted = "$ " if block["language"] == "console" else block["indent"]
            for line in body.splitlines():
                if line.startswith(wanted) and line.strip() and not line.lstrip().startswith("#"):
                    yield Line(line.removeprefix(wanted), where(block.start()), only_named=False)
    prose = _FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)
    if document.suffix == ".rst":
        prose = prose.replace("``", "`")
    for span in _SPAN.finditer(prose):
        named = " ".join(span[1].split())
        if _OURS.match(named) and "=" not in named.partition(" ")[0].lower().removeprefix("cb_"):
            yield Line(named, f"{document.relative_to(ROOT)}: `{named}`", only_named=True)


def variables(line: Line) -> set[str]:
    """Return the environment variables that a line sets."""
    words = shlex.split(line.text, comments=True)
    found = set()
    for word in words[1:] if words[:1] == ["export"] else words:
        if not _VARIABLE.match(word):
            break
        found.add(word.partition("=")[0])
    return found


class Checker:
    """Asks the parsers; `folder` is an empty folder where files are made that the lines take for granted."""

    def __init__(self, config: pytest.Config, folder: Path) -> None:
        self._pytest = config
        self._folder = folder

    def check(self, line: Line) -> None:
        """Raise WrongLineError, or what click and pytest raise, for a line that would be refused."""
        for words in _simple_commands(line.text):
            program, *arguments = [*itertools.dropwhile(_sets_a_variable, words), ""]
            if program:
                self._check(Path(program).name, arguments[:-1], line)

    def _check(self, program: str, words: list[str], line: Line) -> None:
        if program == "commandbus":
            self._check_click(commandbus, words, line.only_named)
        elif program == "pytest":
            self._check_pytest(words, line)
        elif program in ("python", "python3") and words[:1] == ["-m"]:
            self._check_module(words[1], words[2:], line)
        elif program == "make":
            _check_make(words, line.where)
        elif program == "pip":
            _check_extras(words)
        elif program not in _OTHERS and not (program == "python" and words[0].endswith(".py")):
            raise WrongLineError(f"{program} is neither ours nor among the others that are known")

    def _check_click(self, command: click.Command, words: Sequence[str], only_named: bool) -> None:
        """Walk down the tree of commands as click does, but for the call at its end."""
        vague = only_named and any(_PLACEHOLDER.fullmatch(word) for word in words)
        parent: click.Context | None = None
        name, rest = str(command.name), [word for word in words if not (only_named and word.startswith("["))]
        while True:
            try:
                context = self._context(command, name, rest, parent)
            except click.exceptions.Exit:  # --help
                return
            except click.ClickException as error:
                if only_named and _is_only_vague(error, vague):
                    return
                raise
            rest = [*context._protected_args, *context.args]
            if not isinstance(command, click.Group) or not rest or (vague and _PLACEHOLDER.fullmatch(rest[0])):
                return
            found = command.resolve_command(context, rest)
            name, command, rest, parent = str(found[0]), found[1] or command, found[2], context

    def _context(
        self, command: click.Command, name: str, words: Sequence[str], parent: click.Context | None
    ) -> click.Context:
        """Read the words; a file that must be there is made, since the text has it made before."""
        while True:
            try:
                with CliRunner().isolation("a long password\n" * 2):  # it may ask for one
                    return command.make_context(name, list(words), parent=parent)
            except click.BadParameter as error:
                kind = error.param.type if error.param else None
                missing = re.search(r"'([^']+)' does not exist", error.message)
                if not isinstance(kind, click.Path) or missing is None:
                    raise
                place = self._folder / missing[1]
                words = [str(place) if word == missing[1] else word for word in words]
                if kind.file_okay:
                    place.touch(exist_ok=False)
                else:
                    place.mkdir()

    def _check_pytest(self, words: Sequence[str], line: Line) -> None:
        """By the parser of this very run, to which the plugin has added its options."""
        _, unknown = self._pytest._parser.parse_known_and_unknown_args(list(words))
        if unknown:
            raise WrongLineError(f"pytest has no option {unknown[0]}")
        for word in words:
            file = (ROOT / line.where.partition(":")[0]).parent / word.partition("::")[0]
            if word.startswith("tests/") and not file.exists() and not (ROOT / word.partition("::")[0]).exists():
                raise WrongLineError(f"no {word}")

    def _check_module(self, module: str, words: list[str], line: Line) -> None:
        words = [word.strip("[]") for word in words] if line.only_named else words
        if module == "pytest":
            self._check_pytest(words, line)
        elif module in _NO_PARSER:
            if len(words) != _NO_PARSER[module]:
                raise WrongLineError(f"{module} takes {_NO_PARSER[module]} arguments")
        elif module == "tests.e2e.app.worker":
            self._check_click(commandbus, ["worker", "app:app", *words], line.only_named)
        else:
            file = _file_of(module)
            parser = _parser_of(file, module)
            if parser is not None:
                _check_argparse(parser, words)
            elif "import click" in file.read_text(encoding="utf-8"):
                package = f"{module}.__main__" if file.name == "__main__.py" else module
                self._check_click(importlib.import_module(package).main, words, line.only_named)
            elif words:
                raise WrongLineError(f"{module} takes no arguments")


def _sets_a_variable(word: str) -> bool:
    return word == "export" or _VARIABLE.match(word) is not None


def _is_only_vague(error: click.ClickException, has_placeholders: bool) -> bool:
    """Whether all that is wrong is that something is missing, or stands there as a placeholder."""
    if isinstance(error, click.MissingParameter | click.exceptions.NoArgsIsHelpError):
        return True
    if isinstance(error, click.BadParameter | Misuse):
        return has_placeholders
    return type(error) is click.BadOptionUsage


def _simple_commands(text: str) -> Iterator[list[str]]:
    """Split a line of shell into commands, each without its redirections and comment."""
    words: list[str] = []
    text = re.sub(r"<\([^)]*\)", "file", re.sub(r"(^|\s)# .*", "", text))
    text = re.sub(r"\$\w*DSN\b", "postgresql://shop@localhost/shop", text)
    lexer = shlex.shlex(text, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split, lexer.commenters = True, ""
    for token in lexer:
        if set(token) in ({"<"}, {">"}, {">", "&"}):
            if words and words[-1].isdecimal():  # 2> file
                words.pop()
            next(lexer, None)
        elif set(token) <= set("();|&<>"):
            if words:
                yield words
            words = []
        else:
            words.append(token)
    if words:
        yield words


def _file_of(module: str) -> Path:
    path = Path(*module.split("."))
    roots = (ROOT, *(example / "src" for example in (ROOT / "examples").iterdir()))
    for file in (file for root in roots for file in (root / path / "__main__.py", root / path.with_suffix(".py"))):
        if file.is_file():
            return file
    raise WrongLineError(f"there is no module {module}")


def _parser_of(file: Path, module: str) -> argparse.ArgumentParser | None:
    """Make the argparse parser of a module by its own lines, up to the one that parses; what follows is not run.

    An example is not imported for that: it needs what this environment does not have.
    """
    source = file.read_text(encoding="utf-8")
    elsewhere = re.search(rf"^from {re.escape(module)}\.(\w+) import main$", source, re.MULTILINE)
    if elsewhere:
        module, file = f"{module}.{elsewhere[1]}", file.with_name(f"{elsewhere[1]}.py")
        source = file.read_text(encoding="utf-8")
    known: dict[str, Any] = {"argparse": argparse, "os": os, "__doc__": ""}
    if (ROOT / "examples") not in file.parents and "argparse" in source:
        known = {**vars(importlib.import_module(f"{module}.__main__" if file.name == "__main__.py" else module))}
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef):
            told = [ast.unparse(statement) for statement in function.body]
            first = next((i for i, line in enumerate(told) if "= argparse.ArgumentParser(" in line), None)
            if first is not None:
                last = next(i for i, line in enumerate(told) if ".parse_args(" in line)
                exec("\n".join(told[first:last]), known)  # noqa: S102
                parser = known["parser"]
                assert isinstance(parser, argparse.ArgumentParser)
                return parser
    return None


def _check_argparse(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    parser.allow_abbrev = False

    def refuse(message: str) -> None:
        raise WrongLineError(message)

    parser.error = refuse  # type: ignore[assignment,method-assign]
    parser.parse_args(list(words))


def _check_make(words: list[str], where: str) -> None:
    folder = (ROOT / where.partition(":")[0]).parent
    if words[0] == "-C":
        folder, words = ROOT / words[1], words[2:]
    elif not (folder / "Makefile").exists():
        folder = ROOT
    makefile = (folder / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, is_variable, _ = word.partition("=")
        pattern = rf"^{name} \?=" if is_variable else rf"^{re.escape(name)}:"
        if not re.search(pattern, makefile, re.MULTILINE):
            raise WrongLineError(f"{folder.name}/Makefile has no {word}")


def _check_extras(words: Sequence[str]) -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for word in words:
        found = re.fullmatch(r"pytest-commandbus\[([\w,]+)\]", word)
        if found and not set(found[1].split(",")) <= known.keys():
            raise WrongLineError(f"{word}: the extras are {', '.join(known)}")
