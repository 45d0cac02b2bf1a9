"""What one three-step process costs: CPU of Python and of PostgreSQL, WAL, rows and bytes; and what that foretells.

`python -m benchmarks.cost --json PATH` measures, with 1, 2 and 4 worker processes; `--from PATH` instead of it
prints the tables from such a file, with what was measured beside what is foretold.

The model has three limits, of which the least counts. A worker process is one Python thread, and works with one
settling session of PostgreSQL at a time: n of them do at most n / (its CPU) and n / (PostgreSQL's CPU) a second. And
all share the cores.
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import LiteralString

import psutil
from psycopg import Connection, connect
from psycopg_pool import AsyncConnectionPool

from benchmarks._trivial import DOMAIN, app
from benchmarks.three_step_processes import cpu_of_children, cpu_of_server, create, work
from commandbus import Worker, migrate
from pytest_commandbus.postgres.server import EmbeddedPostgres

_STEPS = 3
_WORKERS = (1, 2, 4)
_BATCHES = {100: 1.0, 10: 0.5, 1: 0.2}  # what one claim may take, and the share of the processes that will do
_MORE = 5  # times as many processes tell how the cost grows
_LONGEST_END = 60.0  # seconds

_WAL: LiteralString = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8"
_STORED: LiteralString = """
    SELECT sum(pg_total_relation_size(c.oid))::float8 FROM pg_class c
     WHERE c.relnamespace = 'commandbus'::regnamespace AND c.relkind = 'r'"""
_ROWS: LiteralString = """
    SELECT (SELECT count(*) FROM commandbus.process) + (SELECT count(*) FROM commandbus.command)
         + (SELECT count(*) FROM commandbus.event)"""


@dataclass(frozen=True)
class Cost:
    """Of one process, with this many worker processes. CPU in microseconds, WAL and storage in bytes."""

    workers: int
    create_client: float
    create_server: float
    create_wal: float
    work_client: float
    work_server: float
    work_wal: float
    stored: float
    rows: float
    created: float  # a second
    done: float  # a second

    def doing(self) -> dict[str, float]:
        """What doing it costs, without creating it."""
        return {"client": self.work_client, "server": self.work_server, "wal": self.work_wal}


def measure(count: int, workers: int, before: int = 0, batch_size: int | None = None) -> Cost:
    """Create and do `count` processes on a new server, its data on disk and synced, after so many others.

    batch_size: commands that a worker claims at once, None for as many as `commandbus worker` claims.
    """
    with EmbeddedPostgres(durable=True) as server:
        dsn = server.dsn()
        migrate(dsn)
        with connect(dsn, autocommit=True) as conn:
            if before:
                _create(dsn, before)
                work(dsn, before, _WORKERS[1], 10)
                conn.execute("VACUUM ANALYZE")
            began = _meters(conn, server.pid)
            created_in = _create(dsn, count)
            between = _meters(conn, server.pid)
            done_in = _work(dsn, before + count, workers, batch_size)  # counts from the very first claim on
            ended = _meters(conn, server.pid)
            conn.execute("VACUUM")
            stored, rows = (_number(conn, query) for query in (_STORED, _ROWS))
    create, done = (
        [(b - a) / count for a, b in zip(*pair, strict=True)] for pair in ((began, between), (between, ended))
    )
    every = count + before
    return Cost(
        workers, create[0], create[1], create[2], done[0], done[1], done[2], stored / every, rows / every,
        count / created_in, every / done_in,
    )  # fmt: skip


def _work(dsn: str, count: int, workers: int, batch_size: int | None) -> float:
    if batch_size is None:
        return work(dsn, count, workers, 10)
    call = f"from benchmarks.cost import worker; worker({dsn!r}, {batch_size})"
    return work(dsn, count, workers, 10, lambda *_: subprocess.Popen([sys.executable, "-c", call]))


def worker(dsn: str, batch_size: int) -> None:
    """Work until SIGTERM, claiming at most so many commands at once."""

    async def run() -> None:
        async with AsyncConnectionPool(dsn, min_size=1, max_size=8) as pool:
            one = Worker(
                pool, domain=DOMAIN, handler_registry=app.registry, processes=app.processes(pool),
                concurrency=min(batch_size, 10), batch_size=batch_size,
            )  # fmt: skip
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: asyncio.ensure_future(one.stop()))
            await one.run()

    asyncio.run(run())


def _create(dsn: str, count: int) -> float:
    """In a process of its own, so that its CPU can be told."""
    command = ["-c", f"from benchmarks.cost import creator; creator({dsn!r}, {count})"]
    done = subprocess.run([sys.executable, *command], check=True, capture_output=True, text=True)
    return float(done.stdout)


def creator(dsn: str, count: int) -> None:
    """Create processes and print the seconds that it took."""
    print(asyncio.run(create(dsn, count)))


def _meters(conn: Connection[tuple[object, ...]], pid: int | None) -> tuple[float, float, float]:
    """CPU of our children that have ended and of the server, in microseconds, and the bytes of WAL."""
    if pid is None:
        raise SystemExit("the server does not run")
    _until_alone(psutil.Process(pid), conn.info.backend_pid)
    return cpu_of_children() * 1e6, cpu_of_server(pid) * 1e6, _number(conn, _WAL)


def _until_alone(postmaster: psutil.Process, own: int) -> None:
    """Wait until the server has waited for every session but `own`: only then does their CPU count for it."""
    deadline = time.monotonic() + _LONGEST_END
    while left := [child.pid for child in postmaster.children() if child.pid != own and _is_session(child)]:
        if time.monotonic() > deadline:
            raise SystemExit(f"after {_LONGEST_END:.0f} s these sessions of the server still go on: {left}")
        time.sleep(0.01)


def _is_session(child: psutil.Process) -> bool:
    """Tell whether it is a client's session, or one that ended and was not waited for."""
    try:
        return child.status() == psutil.STATUS_ZOMBIE or any("[local]" in word for word in child.cmdline())
    except psutil.NoSuchProcess:
        return False


def _number(conn: Connection[tuple[object, ...]], query: LiteralString) -> float:
    row = conn.execute(query).fetchone()
    if row is None:
        raise SystemExit("the database gave no answer")
    return float(str(row[0]))


def foretell(cost: Cost, workers: int, cores: int) -> float:
    """Processes a second that so many worker processes do on a machine with so many cores, PostgreSQL on it too."""
    return 1e6 * min(
        workers / cost.work_client, workers / cost.work_server, cores / (cost.work_client + cost.work_server)
    )


def report(costs: Sequence[Cost], growth: Mapping[str, Mapping[str, float]], cores: int) -> str:
    """The tables, in Markdown."""
    base = next(cost for cost in costs if cost.workers == _WORKERS[0])
    both = [base.create_client + base.work_client, base.create_server + base.work_server]
    lines = [
        "| of one process of three steps | created | done | both |",
        "| --- | --- | --- | --- |",
        f"| CPU in Python, µs | {base.create_client:.0f} | {base.work_client:.0f} | {both[0]:.0f} |",
        f"| CPU in PostgreSQL, µs | {base.create_server:.0f} | {base.work_server:.0f} | {both[1]:.0f} |",
        f"| WAL, bytes | {base.create_wal:,.0f} | {base.work_wal:,.0f} | {base.create_wal + base.work_wal:,.0f} |",
        f"| rows that stay | | | {base.rows:.0f} |",
        f"| bytes that stay, indexes included | | | {base.stored:,.0f} |",
        "",
        f"| worker processes, {cores} cores | foretold, processes a second | measured |",
        "| --- | --- | --- |",
    ]
    lines += [f"| {cost.workers} | {foretell(base, cost.workers, cores):,.0f} | {cost.done:,.0f} |" for cost in costs]
    lines += [
        "",
        "| cores of PostgreSQL's own | worker processes | processes a second | commands a second | WAL, MB a second |",
        "| --- | --- | --- | --- | --- |",
    ]
    for own in (2, 4, 8, 16):
        rate = own * 1e6 / (both[1])
        wal = rate * (base.create_wal + base.work_wal) / 1e6
        lines.append(
            f"| {own} | {rate * base.work_client / 1e6:.0f} | {rate:,.0f} | {_STEPS * rate:,.0f} | {wal:.0f} |"
        )
    lines += [
        "",
        "| done by one worker process | CPU in Python, µs | CPU in PostgreSQL, µs | WAL, bytes |",
        "| --- | --- | --- | --- |",
    ]
    for what, cost in growth.items():
        lines.append(f"| {what} | {cost['client']:.0f} | {cost['server']:.0f} | {cost['wal']:,.0f} |")
    return "\n".join(lines)


def median(costs: Sequence[Cost]) -> Cost:
    """The median of each figure."""
    rows = [asdict(cost) for cost in costs]
    return Cost(**{name: statistics.median(row[name] for row in rows) for name in rows[0]})


def main() -> None:
    """Measure or read, then print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=__doc__)
    parser.add_argument("--processes", type=int, default=30_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write what was measured there")
    parser.add_argument("--from", dest="source", type=Path, help="measure nothing, read this")
    options = parser.parse_args()
    if options.source is not None:
        kept = json.loads(options.source.read_text())
        print(report([Cost(**cost) for cost in kept["costs"]], kept["growth"], kept["cores"]))
        return
    runs = [[measure(options.processes, workers) for workers in _WORKERS] for _ in range(options.runs)]
    costs = [median(same) for same in zip(*runs, strict=True)]
    few, many = options.processes, _MORE * options.processes
    growth = {
        f"{few:,} processes, on empty tables": costs[0].doing(),
        f"{many:,} processes, which all wait at first": measure(many, 1).doing(),
        f"{few:,} processes, after {many:,} that are done": measure(few, 1, before=many).doing(),
    }
    for batch_size, share in _BATCHES.items():
        what = "1 command" if batch_size == 1 else f"{batch_size} commands"
        growth[f"at most {what} at once"] = measure(int(few * share), 1, batch_size=batch_size).doing()
    cores = os.cpu_count() or 1
    print(report(costs, growth, cores))
    if options.json is not None:
        document = {"cores": cores, "costs": [asdict(cost) for cost in costs], "growth": growth}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
