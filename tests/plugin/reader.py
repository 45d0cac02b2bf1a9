"""Somebody who follows a document in a folder of their own: writes its files, runs its commands, compares output."""

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree  # of files that our own runs wrote
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from .documents import UUID, Block, Command, commands, compare, read_blocks

SECONDS = 120
# What the texts call so is another server here.
TEST_SERVER, SHOP_DATABASE = "postgresql://tester@localhost/postgres", "postgresql://shop@localhost/shop"
# These only look: what they show may take a moment to come about.
_LOOKS = re.compile(r"commandbus (status|audit|tsq list|batch show)\b")


class Reader:
    """Follows commands in `folder`; `servers` are the connection strings to use for those that the text names."""

    def __init__(self, folder: Path, servers: Mapping[str, str], environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.results = folder.parent / "results"
        self.results.mkdir()
        self.commands: list[str] = []
        self._names = {named: shlex.quote(real) for named, real in servers.items()}  # in the text -> here
        self._background: list[tuple[subprocess.Popen[str], Path]] = []  # with what they print
        self._environment = dict(environment)

    def follow_block(self, block: Block, document: Path) -> None:
        """Run the commands of a console block."""
        for command in commands(block, document):
            self.follow(command)

    def follow(self, command: Command) -> None:
        """Run one command, and compare what it prints with what the text shows."""
        line = command.line
        self.commands.append(line)
        for named, real in self._names.items():
            line = line.replace(named, real)
        if line.startswith("export "):
            name, _, value = shlex.split(line)[1].partition("=")
            self._environment[name] = value
        elif line == "kill %1":
            process, _ = self._background[0]
            process.send_signal(signal.SIGTERM)
            process.wait(SECONDS)
        elif line.endswith(" &"):
            self._run_in_background(line.removesuffix(" &"))
        else:
            self._run(line, command)

    def stop(self) -> list[tuple[int, str]]:
        """End what runs in the background as a supervisor would; return its exit codes and output."""
        for process, _ in self._background:
            process.send_signal(signal.SIGTERM)
        return [(process.wait(SECONDS), log.read_text(encoding="utf-8")) for process, log in self._background]

    def tests_run(self) -> set[tuple[str, str]]:
        """Return (module, function) of each test that a command ran, passed or failed."""
        return ran_in(self.results.glob("*.xml"))

    def _run(self, line: str, command: Command) -> None:
        deadline = time.monotonic() + (SECONDS / 4 if _LOOKS.search(line) else 0)
        while True:
            output, _ = self._start(line).communicate(timeout=SECONDS)
            found = compare(command.shown, output)
            if found.problem is None:
                break
            assert time.monotonic() < deadline, f"{command.where}: {found.problem}\n{output}"
            time.sleep(0.1)
        for shown, actual in found.pairs:  # an id of the text is known by what it is called here from now on
            self._names |= dict(zip(UUID.findall(shown), UUID.findall(actual), strict=False))

    def _run_in_background(self, line: str) -> None:
        """Start a program; a worker may be stopped once it is ready, before that SIGTERM ends it like any program."""
        log = self.results / f"background-{len(self._background)}.log"
        with log.open("w", encoding="utf-8") as output:
            process = self._start(f"exec {line}", output)
        self._background.append((process, log))
        deadline = time.monotonic() + SECONDS
        logs = [log, *(self.folder / name for name in re.findall(r">>? *(\S+)", line))]
        while line.startswith("commandbus worker") and process.poll() is None:
            said = "".join(file.read_text(encoding="utf-8") for file in logs if file.exists())
            if "worker ready" in said:
                return
            assert time.monotonic() < deadline, f"`{line}` was never ready\n{said}"
            time.sleep(0.02)

    def _start(self, line: str, output: int | IO[str] = subprocess.PIPE) -> "subprocess.Popen[str]":
        number = len(list(self.results.iterdir())) + 1
        return subprocess.Popen(
            ["sh", "-c", line],
            cwd=self.folder,
            env=self._environment
            | {"PYTEST_ADDOPTS": f"{self._environment['PYTEST_ADDOPTS']} --junitxml='{self.results}/{number}.xml'"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )


def plain_environment() -> dict[str, str]:
    """Return the environment of somebody who has this run's Python first on the path, and set nothing of ours."""
    ours = ("PYTEST_", "CB_", "COMMANDBUS_", "PYTHONDONTWRITEBYTECODE")
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "COLUMNS": "80",
        # nobody's plugins but ours: they cost half a second of each run
        "PYTEST_ADDOPTS": "-p no:schemathesis -p no:anyio -p no:platformdirs",
    }


def ran_in(files: Iterable[Path]) -> set[tuple[str, str]]:
    """Return (module, function) of each test that junit files tell of, but for skipped ones."""
    cases = [case for file in files for case in ElementTree.parse(file).iter("testcase")]  # noqa: S314
    ran = [case for case in cases if case.find("skipped") is None]
    return {(case.get("classname", ""), case.get("name", "").partition("[")[0]) for case in ran}


def write_file(folder: Path, block: Block, servers: Mapping[str, str] | None = None) -> Path:
    """Write the file that a block names."""
    text = block.text
    for named, real in (servers or {}).items():
        text = text.replace(named, real)
    file = folder / (block.file_name or "")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def write_files(folder: Path, document: Path) -> list[Path]:
    """Write the files of a document's blocks; return those of Python."""
    blocks = [block for block in read_blocks(document) if block.file_name is not None]
    files = [write_file(folder, block) for block in blocks]
    return [file for file in files if file.suffix == ".py"]


def functions_of(files: Iterable[Path]) -> set[tuple[str, str]]:
    """Return (module, function) of each test in the files."""
    return {
        (file.stem, node.name)
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }
