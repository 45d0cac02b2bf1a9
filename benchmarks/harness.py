"""Runs the systems of benchmarks/systems: a server of its own for each measurement, real worker processes.

The backlog is there before the worker processes are told to go, each imported and connected. Done is counted from the
first start of a command to the last end, as the system itself recorded them: nobody pays for its start-up, nor for the
time between two looks at what is left. Every server has the same settings, and ANALYZE ran after the filling, since a
planner without statistics is no property of a queue.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg

from pytest_commandbus.postgres.server import EmbeddedPostgres

_ROOT = Path(__file__).parent.parent
WORKERS = 2  # processes of each system
_POLL = 0.02  # seconds between two looks at what is left, or
_POLL_SHARE = 50  # times as long as a look takes, so that looking costs nobody more than 2 % of a core
_LONGEST = 900.0  # seconds that one measurement may take


@dataclass(frozen=True)
class Python:
    """An environment's interpreter, and what its scripts find on the path beside their own packages."""

    executable: Path

    def command(self, module: str, *arguments: str) -> list[str]:
        """The command line of a module of this repository."""
        return [str(self.executable), "-m", module, *arguments]


@dataclass(frozen=True)
class Run:
    """One measured system: its name in the tables, its script, the environment that it needs."""

    name: str
    module: str
    python: Python

    @cached_property
    def about(self) -> dict[str, Any]:
        """The system's queries for when it started and whether it has finished, and whether it has an auditor."""
        return self.call("describe", "")

    def call(self, verb: str, dsn: str, *options: str) -> dict[str, Any]:
        """Run one verb to its end; returns what it printed."""
        command = self.python.command(self.module, verb, dsn, *options)
        done = subprocess.run(
            command, cwd=_ROOT, capture_output=True, text=True, env=_environment(), timeout=_LONGEST, check=False
        )
        if done.returncode != 0:
            raise SystemExit(f"{self.name}: {verb} ended with {done.returncode}\n{done.stderr[-2_000:]}")
        lines = done.stdout.strip().splitlines()
        return dict(json.loads(lines[-1])) if lines else {}


@dataclass(frozen=True)
class Work:
    """What a measurement of a workload found, per second."""

    created: float
    done: float
    audited: float  # seconds; 0 where the system has no auditor
    asked: tuple[float, ...] = ()  # what `ask` found


def work(run: Run, workload: str, count: int, *, hold_snapshot: bool = False, ask: str | None = None) -> Work:
    """Fill a backlog on a new server, then let the worker processes work it off.

    With `hold_snapshot` a transaction that began before the first claim stays open until the end. `ask` is a query of
    one row of numbers, put to the database at the end.
    """
    about = run.about
    with EmbeddedPostgres(durable=True) as server:
        dsn = server.dsn()
        filled = run.call("fill", dsn, "--workload", workload, "--count", str(count))
        with (
            psycopg.connect(dsn, autocommit=True) as conn,
            psycopg.connect(dsn, autocommit=True) as old,
            _workers(run, dsn, WORKERS, "--workload", workload) as processes,
        ):
            conn.execute("ANALYZE")
            if hold_snapshot:
                old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
                old.execute("SELECT count(*) FROM pg_class")
            for process in processes:
                _say_go(process)
            _until(conn, about["finished"], processes)
            seconds = _row(conn, about["ended"])[0] - _row(conn, about["started"])[0]
            asked = _row(conn, ask) if ask is not None else ()
        audited = run.call("audit", dsn).get("seconds", 0.0) if about["has_auditor"] else 0.0
        return Work(count / filled["seconds"], count / seconds, audited, asked)


def latencies(run: Run, count: int, pause: float) -> list[float]:
    """Send single commands to one idle worker; returns the seconds from each send to the start of its handler."""
    about = run.about
    with EmbeddedPostgres(durable=True) as server:
        dsn = server.dsn()
        run.call("install", dsn)
        with psycopg.connect(dsn, autocommit=True) as conn, _workers(run, dsn, 1) as processes:
            _say_go(processes[0])
            run.call("send", dsn, "--count", "20", "--pause", str(pause))  # its plans and connections are warm then
            run.call("send", dsn, "--count", str(count), "--pause", str(pause))
            _until(conn, about["finished"], processes)
            found = _end(processes[0])
    if len(found["latencies"]) != count + 20:
        raise SystemExit(f"{run.name}: {len(found['latencies'])} of {count + 20} commands were handled")
    return list(found["latencies"][20:])


@contextmanager
def _workers(run: Run, dsn: str, count: int, *options: str) -> Iterator[Sequence[subprocess.Popen[str]]]:
    command = run.python.command(run.module, "work", dsn, *options)
    processes = [
        subprocess.Popen(
            command,
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=_environment(),
        )
        for _ in range(count)
    ]
    try:
        for process in processes:
            if _read(process) != "ready":
                raise SystemExit(f"{run.name}: a worker ended before it was ready (try: {' '.join(command)})")
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            with process:  # closes its pipes, and waits
                pass


def _read(process: subprocess.Popen[str]) -> str:
    """The next line that is ours: libraries may greet on standard output too."""
    while line := process.stdout.readline() if process.stdout else "":
        if line.strip() == "ready" or line.startswith("{"):
            return line.strip()
    return ""


def _say_go(process: subprocess.Popen[str]) -> None:
    if process.stdin is not None:
        process.stdin.write("go\n")
        process.stdin.flush()


def _end(process: subprocess.Popen[str]) -> dict[str, Any]:
    if process.stdin is not None:
        process.stdin.close()
    return dict(json.loads(_read(process) or "{}"))


def _until(conn: psycopg.Connection[Any], finished: str, processes: Sequence[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + _LONGEST
    while True:
        looked = time.monotonic()
        if _row(conn, finished)[0]:
            return
        if any(process.poll() is not None for process in processes):
            raise SystemExit("a worker process ended before the work was done")
        if time.monotonic() > deadline:
            raise SystemExit(f"not done after {_LONGEST:g} s")
        time.sleep(max(_POLL, _POLL_SHARE * (time.monotonic() - looked)))


def _row(conn: psycopg.Connection[Any], query: str) -> tuple[Any, ...]:
    row = conn.execute(query.encode()).fetchone()
    if row is None or row[0] is None:
        raise SystemExit(f"the database has no answer to: {query}")
    return row


def _environment() -> dict[str, str]:
    """What the systems' scripts find: this checkout and nothing else of this environment."""
    return {**os.environ, "PYTHONPATH": f"{_ROOT}{os.pathsep}{_ROOT / 'src'}", "PYTHONDONTWRITEBYTECODE": "1"}
