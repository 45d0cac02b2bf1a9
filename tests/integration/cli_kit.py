"""The command line, here and in processes of its own, with an application to work for."""

import asyncio
import json
import logging
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import psycopg
import pytest
from click.testing import CliRunner

from commandbus.cli import main

APP = """
import asyncio
from commandbus import App, Middleware, RetryPolicy

app = App(retry_policy=RetryPolicy(max_attempts=1))
empty = App()

@app.handler("orders", "Slow")
async def slow(command, context):
    print("started", command.command_id, flush=True)
    await asyncio.sleep(command.data["seconds"])
    return {"slept": command.data["seconds"]}

@app.handler("billing", "Where")
def where(command, context):
    import pathlib
    return {"folder": str(pathlib.Path.cwd())}

class Tagging(Middleware):
    async def handle(self, context, call_next):
        return {**(await call_next() or {}), "tagged": True}

def tagging(pool):
    return Tagging()

def broken(pool):
    raise LookupError("no tracer here")

def nothing(pool):
    return None
"""


def write_shop(tmp_path: Path) -> Path:
    """Make it a folder with an application in shop.py, and with some that cannot be imported."""
    (tmp_path / "shop.py").write_text(APP)
    (tmp_path / "broken.py").write_text("import json\n\njson.loads('{')\n")
    (tmp_path / "wants.py").write_text("import no_such_dependency\n")
    (tmp_path / "typo.py").write_text("def :\n")
    return tmp_path


def command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "commandbus", *arguments]


class Ended(NamedTuple):
    """How a command ended, as a process of its own tells it."""

    returncode: int
    stdout: str
    stderr: str


def run(folder: Path, *arguments: str, **environment: str) -> Ended:
    """Run one command to its end, in this process: a Python that starts anew would cost most of the time."""
    with _as_a_process_has_it(folder):
        result = CliRunner().invoke(main, arguments, prog_name="commandbus", env={"COLUMNS": "80", **environment})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, result.stdout, result.stderr)


@contextmanager
def _as_a_process_has_it(folder: Path) -> Iterator[None]:
    """The folder as the current one, no module of it imported yet, no event loop running; afterwards all as before."""
    levels = {name: logging.getLogger(name).level for name in ("", "psycopg.pool")}
    loop = asyncio._get_running_loop()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        for module in folder.glob("*.py"):
            patch.delitem(sys.modules, module.stem, raising=False)
        asyncio._set_running_loop(None)
        try:
            yield
        finally:
            asyncio._set_running_loop(loop)
            for module in folder.glob("*.py"):
                sys.modules.pop(module.stem, None)
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def run_process(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, in a process of its own."""
    return subprocess.run(
        command_line(*arguments),
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refused(result: "Ended | subprocess.CompletedProcess[str]", exit_code: int, *parts: str) -> None:
    """It ended with this code and one line, which has these parts."""
    assert result.returncode == exit_code, result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    for part in parts:
        assert part in result.stderr


class Running:
    """A worker process; `ready` is the line that it printed when it was, `log` what it wrote to stderr before."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[str] = []
        self.ready = self.error_line()
        while self.ready and not self.ready.startswith(("worker ready: ", "Error: ")):
            self.log.append(self.ready)
            self.ready = self.error_line()

    def line(self) -> str:
        """The next line that a handler printed."""
        if self.process.stdout is None:
            raise TypeError
        return self.process.stdout.readline()

    def error_line(self) -> str:
        """The next line on stderr."""
        if self.process.stderr is None:
            raise TypeError
        return self.process.stderr.readline()

    def error_line_with(self, text: str) -> str:
        """The next line on stderr that has `text`; what comes before is kept in `log`."""
        while text not in (line := self.error_line()):
            if not line:
                raise AssertionError(f"it ended before it said {text!r}: {''.join(self.log)}")
            self.log.append(line)
        return line

    def end(self, signal_number: int | None = None) -> tuple[int, str]:
        """Wait for its end, perhaps after a signal; returns its exit code and what it still wrote to stderr."""
        if signal_number is not None:
            self.process.send_signal(signal_number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


@contextmanager
def begun(folder: Path, dsn: str, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A command that runs while the block does; it is killed if it still does afterwards."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    environment = {**os.environ, "COMMANDBUS_DSN": dsn} | options.pop("environment", {})
    with subprocess.Popen(command_line(*arguments), cwd=folder, env=environment, text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def worker(folder: Path, dsn: str, *arguments: str, application: str = "shop:app") -> Iterator[Running]:
    process = subprocess.Popen(
        command_line("worker", application, *arguments),
        cwd=folder,
        env={**os.environ, "COMMANDBUS_DSN": dsn},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Running(process)
    finally:
        process.kill()
        process.communicate()


def read_until(descriptor: int, text: str) -> str:
    """What a terminal shows, up to this text."""
    shown = ""
    while text not in shown:
        assert select.select([descriptor], [], [], 20)[0], f"waited in vain for {text!r} after {shown!r}"
        shown += os.read(descriptor, 4_096).decode()
    return shown


def send(dsn: str, domain: str, command_type: str, data: dict[str, object] | None = None) -> UUID:
    command_id = uuid4()
    row = {"command_id": str(command_id), "domain": domain, "command_type": command_type, "payload": data or {}}
    with psycopg.connect(dsn) as conn:
        conn.execute("SELECT commandbus.enqueue(%s::json)", (json.dumps([row]),))
    return command_id


def status(dsn: str, command_id: UUID) -> tuple[str, object]:
    with psycopg.connect(dsn) as conn:
        row = conn.execute(
            "SELECT status, result FROM commandbus.command_state WHERE command_id = %s", (command_id,)
        ).fetchone()
    assert row is not None
    return row[0], row[1]


def wait_until_done(dsn: str, *commands: UUID) -> None:
    """Wait until each of the commands is COMPLETED."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        for _ in range(2_000):
            row = conn.execute(
                "SELECT count(*) FROM commandbus.command_state WHERE command_id = ANY(%s) AND status = 'COMPLETED'",
                (list(commands),),
            ).fetchone()
            if row == (len(commands),):
                return
            conn.execute("SELECT pg_sleep(0.01)")
    raise AssertionError("the commands were not completed in time")
