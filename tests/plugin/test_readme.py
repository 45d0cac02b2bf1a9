"""The tutorial of README.md does what its text says: its files are written, its commands run, their output compared."""

import ast
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree  # of files that our own runs wrote
from collections.abc import Iterable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from pytest_commandbus.postgres.dsn import with_database

from .readme_blocks import Command, commands, difference, read_blocks

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
REFERENCE = ROOT / "docs" / "reference" / "plugin.md"
DOCUMENTS = (README, *sorted((ROOT / "docs").rglob("*.md")))
SECONDS = 120
# What the text calls so is another server here.
TEST_SERVER, SHOP_DATABASE = "postgresql://tester@localhost/postgres", "postgresql://shop@localhost/shop"


class Reader:
    """Somebody who follows the text in a folder of their own."""

    def __init__(self, folder: Path, servers: dict[str, str]) -> None:
        self.folder = folder
        self.results = folder.parent / "results"
        self.results.mkdir()
        self._servers = servers
        self._background: list[subprocess.Popen[str]] = []
        self._environment = plain_environment()

    def follow(self, command: Command) -> None:
        """Run one command, and compare what it prints with what the text shows."""
        line = command.line
        for named, real in self._servers.items():
            line = line.replace(named, shlex.quote(real))
        if line.startswith("export "):
            name, _, value = shlex.split(line)[1].partition("=")
            self._environment[name] = value
        elif line.endswith(" &"):
            self._background.append(self._start(line.removesuffix(" &")))
        else:
            process = self._start(line)
            output, _ = process.communicate(timeout=SECONDS)
            assert (problem := difference(command.shown, output)) is None, f"{command.where}: {problem}\n{output}"

    def stop(self) -> list[tuple[int, str]]:
        """End what runs in the background as a supervisor would; return its exit codes and output."""
        for process in self._background:
            process.send_signal(signal.SIGTERM)
        outputs = [process.communicate(timeout=SECONDS)[0] for process in self._background]
        return [(process.returncode, output) for process, output in zip(self._background, outputs, strict=True)]

    def tests_run(self) -> set[tuple[str, str]]:
        """Return (module, function) of each test that a command ran, passed or failed."""
        return ran_in(self.results.glob("*.xml"))

    def _start(self, line: str) -> "subprocess.Popen[str]":
        number = len(list(self.results.iterdir())) + 1
        return subprocess.Popen(
            ["sh", "-c", f"exec {line}"],
            cwd=self.folder,
            env={**self._environment, "PYTEST_ADDOPTS": f"--junitxml='{self.results}/{number}.xml'"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def plain_environment() -> dict[str, str]:
    """Return the environment of somebody who has this run's Python first on the path, and set nothing of ours."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "CB_"))},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "COLUMNS": "80",
    }


def ran_in(files: Iterable[Path]) -> set[tuple[str, str]]:
    """Return (module, function) of each test that junit files tell of, but for skipped ones."""
    cases = [case for file in files for case in ElementTree.parse(file).iter("testcase")]  # noqa: S314
    ran = [case for case in cases if case.find("skipped") is None]
    return {(case.get("classname", ""), case.get("name", "").partition("[")[0]) for case in ran}


def write_files(folder: Path, document: Path) -> list[Path]:
    """Write the files of a document's blocks; return those of Python."""
    written = []
    for block in read_blocks(document):
        if block.file_name is not None:
            (folder / block.file_name).write_text(block.text, encoding="utf-8")
            written += [folder / block.file_name] if block.language == "python" else []
    return written


def functions_of(files: list[Path]) -> set[tuple[str, str]]:
    """Return (module, function) of each test in the files."""
    return {
        (file.stem, node.name)
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


@pytest.fixture
def shop_dsn(cb_postgres: str) -> Iterator[str]:
    """A database that nobody has migrated."""
    name = f"cb_readme_{os.getpid()}"
    with psycopg.connect(cb_postgres, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield with_database(cb_postgres, name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_every_python_block_names_its_file():
    for document in DOCUMENTS:
        for block in read_blocks(document):
            assert block.language in {"python", "toml", "console", "sh", "sql"}, f"{document.name}:{block.line}"
            assert block.language != "python" or block.file_name, (
                f"{document.name}:{block.line} begins with no # name.py"
            )


def test_every_relative_link_leads_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize(
    ("shown", "actual", "found"),
    [
        (["a", "..."], "a\nb\nc", True),
        (["...", "c"], "a\nb\nc", True),
        (["a", "...", "c"], "a\nb\nc", True),
        (["a", "c"], "a\nb\nc", False),
        (["...", "b"], "a\nb\nc", False),
        (["b", "..."], "a\nb\nc", False),
        (["...", "c", "b", "..."], "a\nb\nc", False),
        (["...", "d", "..."], "a\nb\nc", False),
        ([" +10.16 s  worker 2"], "   +12.00 s  worker 1", True),
        ([" +10.16 s  worker 2"], "   +70.00 s  worker 1", False),
    ],
)
def test_shown_output_is_compared_line_by_line(shown: list[str], actual: str, found: bool):
    assert (difference(shown, actual) is None) is found


@pytest.mark.slow
def test_the_tutorial_suits_strict_type_checks(tmp_path: Path):
    files = [file.name for file in write_files(tmp_path, README) if not file.name.startswith("test_")]
    line = [sys.executable, "-m", "mypy", "--strict", *files]
    run = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert run.returncode == 0, run.stdout


@pytest.mark.slow
def test_the_tutorial_does_what_its_text_says(tmp_path: Path, cb_postgres: str, shop_dsn: str):
    folder = tmp_path / "a shop"
    folder.mkdir()
    files = write_files(folder, README)
    reader = Reader(folder, {TEST_SERVER: cb_postgres, SHOP_DATABASE: shop_dsn})
    try:
        for block in read_blocks(README):
            if block.language == "console":
                for command in commands(block, README):
                    reader.follow(command)
        wait_for_the_order(shop_dsn)
    finally:
        ended = reader.stop()
    assert reader.tests_run() == functions_of(files)
    assert [(code, "worker ready: shop:app" in output) for code, output in ended] == [(0, True)]
    assert json.loads((folder / "build" / "load.json").read_text())["outcomes"]["COMPLETED"] > 0


def wait_for_the_order(dsn: str) -> None:
    """Wait until the worker in the background has done the order that was placed."""
    deadline = time.monotonic() + SECONDS
    with psycopg.connect(dsn, autocommit=True) as connection:
        while True:
            row = connection.execute("SELECT status, state ->> 'parcel' FROM commandbus.process").fetchone()
            if row == ("COMPLETED", "P000007"):
                return
            assert time.monotonic() < deadline, f"the order placed is {row}"
            time.sleep(0.05)


def test_the_examples_of_the_reference_pass(tmp_path: Path):
    """On the tutorial's shop, all in one strict run, load tests with a few processes."""
    write_files(tmp_path, README)
    for file in tmp_path.glob("test_*.py"):
        file.unlink()
    files = write_files(tmp_path, REFERENCE)
    line = "pytest -p pytest_commandbus -W error --strict-markers --strict-config --cb-load=20 --junitxml=results.xml"
    run = subprocess.run(
        shlex.split(line),
        cwd=tmp_path,
        env=plain_environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert ran_in([tmp_path / "results.xml"]) == functions_of(files)


def test_the_reference_lists_every_fixture_marker_option_and_ini_key(pytester: pytest.Pytester):
    text = (ROOT / "docs" / "reference" / "plugin.md").read_text(encoding="utf-8")
    told = {
        option: pytester.runpytest_inprocess(option).stdout.str() for option in ("--help", "--markers", "--fixtures")
    }
    options = set(re.findall(r"^  (--cb-[a-z-]+)", told["--help"], re.MULTILINE))
    keys = set(re.findall(r"^  (cb_\w+) \(", told["--help"], re.MULTILINE))
    markers = set(re.findall(r"^@pytest\.mark\.(chaos|load|cb_\w+)", told["--markers"], re.MULTILINE))
    fixtures = set(re.findall(r"^(cb_\w+)(?: \[\w+ scope\])? --", told["--fixtures"], re.MULTILINE))
    for kind, names in {"option": options, "ini key": keys, "marker": markers, "fixture": fixtures}.items():
        listed = set(re.findall(rf"^### `([^`(=\[]+).*<!-- {kind} -->", text, re.MULTILINE))
        assert names, kind
        assert listed == names, f"{kind}: {listed ^ names}"
