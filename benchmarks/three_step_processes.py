"""How many three-step processes with trivial handlers are created and done in a second, everything audited.

The processes are created first; then two worker processes start on the full backlog. Done is counted from the first
claim to the last settle, by the database's clock; creation from the first to the last chunk. Run it with
`python -m benchmarks.three_step_processes --help`.
"""

import argparse
import asyncio
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from psycopg import connect
from psycopg_pool import AsyncConnectionPool

from benchmarks._trivial import DOMAIN, ThreeSteps
from commandbus import CommandBus, migrate
from pytest_commandbus.postgres.server import EmbeddedPostgres

_SPAN = """
    SELECT extract(epoch FROM max(ts) - min(ts))::float8, count(*) FILTER (WHERE type = 'COMPLETED')
      FROM commandbus.event WHERE type <> 'SENT'"""
# Cheap, since what asks takes its time from what is measured: while there is work, the first row answers.
_BUSY = "SELECT EXISTS (SELECT FROM commandbus.queue)"
_POLL = 0.25  # seconds


async def create(dsn: str, count: int) -> float:
    """Start `count` processes; returns the seconds it took."""
    async with AsyncConnectionPool(dsn, min_size=1, max_size=2) as pool:
        batch_id = await CommandBus(pool).create_process_batch(DOMAIN, count)
        began = time.perf_counter()
        await ThreeSteps(pool).start_many(({"number": i} for i in range(count)), batch_id)
        return time.perf_counter() - began


def _start_worker(dsn: str, concurrency: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "commandbus", "worker", "benchmarks._trivial:app"]
    options = ["--dsn", dsn, "--concurrency", str(concurrency)]
    return subprocess.Popen(
        [*command, *options], cwd=Path(__file__).parent.parent, stderr=subprocess.DEVNULL, env=dict(os.environ)
    )


def cpu_of_server(pid: int) -> float:
    """CPU seconds of a server and of its backends that have ended; 0 where there is no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def work(
    dsn: str,
    count: int,
    workers: int,
    concurrency: int,
    start: Callable[[str, int], subprocess.Popen[bytes]] = _start_worker,
) -> float:
    """Let workers do all processes; returns the seconds from the first claim to the last settle."""
    started = [start(dsn, concurrency) for _ in range(workers)]
    try:
        with connect(dsn, autocommit=True) as conn:
            while _one(conn.execute(_BUSY).fetchone())[0]:
                if any(worker.poll() is not None for worker in started):
                    raise SystemExit("a worker process ended before the work was done")
                time.sleep(_POLL)
            seconds, completed = _one(conn.execute(_SPAN).fetchone())
    finally:
        for worker in started:
            worker.send_signal(signal.SIGTERM)
        for worker in started:
            worker.wait()
    if completed != 3 * count:
        raise SystemExit(f"{completed} commands were completed, not {3 * count}")
    return float(seconds)


def _one(row: tuple[float, ...] | None) -> tuple[float, ...]:
    if row is None:
        raise SystemExit("the database gave no answer")
    return row


def measure(count: int, workers: int, concurrency: int, *, durable: bool) -> tuple[float, float]:
    """Run once on a server of its own; returns (created a second, done a second)."""
    with EmbeddedPostgres(durable=durable) as server:
        migrate(server.dsn())
        created = asyncio.run(create(server.dsn(), count))
        before = cpu_of_children(), cpu_of_server(server.pid)
        done = work(server.dsn(), count, workers, concurrency)
        after = cpu_of_children(), cpu_of_server(server.pid)
        micros = [(b - a) / count * 1e6 for a, b in zip(before, after, strict=True)]
        print(f"CPU a process: workers {micros[0]:.0f} us, PostgreSQL {micros[1]:.0f} us", file=sys.stderr)
        return count / created, count / done


def main() -> None:
    """Measure several times and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--concurrency", type=int, default=10)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--durable", action="store_true", help="on disk, with fsync")
    options = parser.parse_args()
    runs = [
        measure(options.processes, options.workers, options.concurrency, durable=options.durable)
        for _ in range(options.runs)
    ]
    created, done = (sorted(run[i] for run in runs) for i in range(2))
    print(
        f"{options.processes:,} three-step processes, {options.workers} worker processes, {options.runs} runs: "
        f"created {statistics.median(created):,.0f}/s ({created[0]:,.0f} to {created[-1]:,.0f}), "
        f"done {statistics.median(done):,.0f}/s ({done[0]:,.0f} to {done[-1]:,.0f})"
    )


if __name__ == "__main__":
    main()
