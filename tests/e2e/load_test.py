"""A load test of the bus from the command line: `python -m tests.e2e.load_test --commands 10000 --workers 4`.

Starts worker processes, sends test commands in bulk, shows how they fare, and tells the figures at the end. How many
are to complete, and how many to be parked, follows from the seed; another outcome is a failure, exit code 1. The
commands are those of the application's bulk API, the progress that of `--cb-load`.
"""

import asyncio
import random
import sys
from collections import Counter, deque
from dataclasses import dataclass
from time import monotonic

import click
from psycopg_pool import AsyncConnectionPool

from commandbus import CommandStatus
from commandbus.cli.failures import Failure
from commandbus.cli.signals import Signals
from commandbus.status import LONGEST_WINDOW
from pytest_commandbus.chaos import CommandBehavior
from pytest_commandbus.postgres.errors import PostgresError
from pytest_commandbus.progress import MOST_OF_THE_TIME, PACE_SECONDS, Display, Snapshot, make_display, pace
from pytest_commandbus.report import number
from tests.e2e.app.api.schemas import LONGEST_DELAY_MS, MOST
from tests.e2e.app.bulk import Bulk, predict, send_bulk
from tests.e2e.app.database import VARIABLE, open_database, store_seed
from tests.e2e.app.main import app
from tests.e2e.app.stats import LoadStats, LoadTestStats, Throughput
from tests.e2e.app.workers import WorkerError, worker_processes

_POOL = 4
_TOLD_WITHIN = 15.0  # seconds after the last command in which the workers have told what they did


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for."""

    commands: int
    workers: int
    concurrency: int
    behavior: CommandBehavior
    seed: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    sent: Bulk
    stats: LoadTestStats
    throughput: Throughput
    predicted: "Counter[CommandStatus]"

    @property
    def actual(self) -> "Counter[CommandStatus]":
        """How many commands ended how."""
        stats = self.stats
        return Counter(
            {
                CommandStatus.COMPLETED: stats.completed,
                CommandStatus.FAILED: stats.failed,
                CommandStatus.IN_TROUBLESHOOTING_QUEUE: stats.in_tsq,
            }
        )

    @property
    def seconds(self) -> float:
        """From when the workers could see the commands until the last one was settled."""
        return max(self.stats.elapsed_seconds - self.sent.queue_seconds, 0.001)


@click.command()
@click.option("--commands", type=click.IntRange(1, MOST), default=1_000, show_default=True, help="How many to send.")
@click.option("--workers", type=click.IntRange(1), default=4, show_default=True, help="Worker processes.")
@click.option("--concurrency", type=click.IntRange(1), default=10, show_default=True, help="Handlers at a time, each.")
@click.option(
    "--delay-ms", type=click.IntRange(0, LONGEST_DELAY_MS), default=0, show_default=True, help="How long one takes."
)
@click.option(
    "--success-pct",
    type=click.FloatRange(0, 100),
    default=100.0,
    show_default=True,
    help="Percentage that succeeds; the rest fails permanently.",
)
@click.option("--seed", type=int, help="What decides which fail.  [default: drawn]")
def main(commands: int, workers: int, concurrency: int, delay_ms: int, success_pct: float, seed: int | None) -> None:
    """Send test commands to worker processes and tell how fast they were.

    On an embedded PostgreSQL, or in a database of its own on the server that the environment variable CB_POSTGRES
    names, which is dropped at the end.
    """
    asked = Asked(
        commands,
        workers,
        concurrency,
        CommandBehavior(fail_permanent_pct=100 - success_pct, min_duration_ms=delay_ms, max_duration_ms=delay_ms),
        random.randrange(2**31) if seed is None else seed,
    )
    try:
        with open_database(is_kept=False) as dsn:
            outcome = asyncio.run(_run(dsn, asked))
    except PostgresError as error:
        raise Failure(f"{VARIABLE}: {error}") from error
    except WorkerError as error:
        raise Failure(str(error)) from error
    _tell(asked, outcome)
    if outcome.actual != outcome.predicted:
        raise Failure(f"seed {asked.seed} predicts other outcomes: look for errors of the workers above")


async def _run(dsn: str, asked: Asked) -> Outcome:
    stopped_by: list[int] = []
    task = asyncio.ensure_future(_measured(dsn, asked))

    def stop(signal_number: int) -> None:
        stopped_by.append(signal_number)
        task.cancel()

    with Signals(stop):
        try:
            return await task
        except asyncio.CancelledError:
            if not stopped_by:
                raise
    click.echo("stopped", err=True)
    raise click.exceptions.Exit(128 + stopped_by[0])


async def _measured(dsn: str, asked: Asked) -> Outcome:
    def behavior_of(_: int) -> CommandBehavior:
        return asked.behavior

    async with AsyncConnectionPool(dsn, min_size=1, max_size=_POOL, open=False, name="load test") as pool:
        await store_seed(pool, asked.seed)
        async with worker_processes(dsn, asked.workers, asked.concurrency) as workers:
            sent = await send_bulk(pool, asked.commands, behavior_of)
            click.echo(f"{number(sent.created)} commands sent in {sent.queue_seconds:.2f} s, seed {asked.seed}")
            stats = await _watched(LoadStats(pool), sent, make_display(sys.stdout), workers.lives)
        throughput = await _told(LoadStats(pool), asked.commands)
    predicted = predict(asked.seed, sent.number, asked.commands, behavior_of, app.retry_policy.max_attempts)
    return Outcome(sent, stats, throughput, Counter({status: predicted[status] for status in _ENDS}))


_ENDS = (CommandStatus.COMPLETED, CommandStatus.FAILED, CommandStatus.IN_TROUBLESHOOTING_QUEUE)


async def _watched(
    figures: LoadStats, sent: Bulk, display: Display, lives: "list[asyncio.Task[object]]"
) -> LoadTestStats:
    """Show how far it is until all is done: some looks a second at the batch, however many commands it has."""
    recent = deque([Snapshot(sent.created, sent.created, 0, 0, 0, 0.0, 0.0, "commands")])
    try:
        while True:
            began = monotonic()
            stats = await figures.load_test(sent.batch_id)
            if stats.pending == 0:
                return stats
            if lives and all(life.done() for life in lives):
                raise WorkerError("every worker process has ended before all commands had")
            done = stats.total_commands - stats.pending
            now = Snapshot(sent.created, sent.created, done, stats.in_tsq, 0, stats.elapsed_seconds, 0.0, "commands")
            while len(recent) > 1 and now.seconds - recent[0].seconds > PACE_SECONDS:
                recent.popleft()
            display.show("load test", now, pace(recent[0], now))
            recent.append(now)
            await asyncio.sleep(max(display.interval, MOST_OF_THE_TIME * (monotonic() - began)))
    finally:
        display.close()


async def _told(figures: LoadStats, commands: int) -> Throughput:
    """Read the figures of the whole run once the workers have stored them, and status counts their last second."""
    deadline = monotonic() + _TOLD_WITHIN
    while True:
        found = await figures.throughput(LONGEST_WINDOW)
        if found.commands_processed >= commands or monotonic() > deadline:
            return found
        await asyncio.sleep(0.2)


def _tell(asked: Asked, outcome: Outcome) -> None:
    figures = outcome.throughput
    rows = [
        ("Total Commands", number(outcome.stats.total_commands)),
        ("Workers", number(asked.workers)),
        ("Total Time", f"{outcome.seconds:.2f} s"),
        ("Throughput", f"{number(round(outcome.stats.total_commands / outcome.seconds))} commands/s"),
        ("p50", f"{figures.p50_ms:.2f} ms"),
        ("p95", f"{figures.p95_ms:.2f} ms"),
        ("p99", f"{figures.p99_ms:.2f} ms"),
    ]
    actual, predicted = outcome.actual, outcome.predicted
    rows += [
        (name, f"{number(actual[status])} (predicted {number(predicted[status])})")
        for name, status in (("Completed", _ENDS[0]), ("Failed", _ENDS[1]), ("In TSQ", _ENDS[2]))
    ]
    click.echo()
    for label, value in rows:
        click.echo(f"{label + ':':<17}{value}")


if __name__ == "__main__":
    main(prog_name="python -m tests.e2e.load_test")
