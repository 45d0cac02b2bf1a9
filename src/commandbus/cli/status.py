"""`commandbus status`."""

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import click

from commandbus._core.connection import Pool
from commandbus.cli.database import dsn_option
from commandbus.cli.output import json_option, print_json, print_table, row_of, run
from commandbus.status import LONGEST_WINDOW, BusStatus, DomainStatus, Latency, WorkerStatus
from commandbus.status import status as read_status

_CLEAR = "\x1b[H\x1b[2J"
_DOMAINS = ("domain", "backlog", "oldest", "in flight", "expired", "scheduled", "parked", "workers")
_RATES = ("domain", "claimed/s", "completed/s", "failed/s", "retried/s", "parked/s")
_TYPES = ("command type", "done/s", "p50", "p95", "p99", "wait p50", "wait p99")
_WORKERS = ("worker", "domain", "host", "pid", "version", "at once", "alive", "claimed")


@click.command(short_help="Tell what waits, what runs, who works and how fast.")
@click.option("--domain", help="Only this domain. [default: all that have a live command or a worker]")
@click.option(
    "--window",
    type=click.IntRange(1, LONGEST_WINDOW),
    default=60,
    show_default=True,
    help="Seconds over which rates and latencies are taken; they end 3 seconds ago.",
)
@click.option(
    "--watch",
    type=click.FloatRange(0.1),
    metavar="SECONDS",
    help="Tell again every so many seconds, until Ctrl-C; with --json one document a line.",
)
@dsn_option
@json_option
def status(domain: str | None, window: int, watch: float | None, dsn: str, as_json: bool) -> None:
    """Tell what waits, what runs, who works and how fast.

    It costs little beside any backlog: what is beyond 10,000 is estimated (~) or not counted further (+).

    \b
    Examples:
      commandbus status
      commandbus status --domain orders --watch 2
      commandbus status --json
    """

    async def tell(pool: Pool) -> None:
        while True:
            found = await read_status(pool, domain, window=window)
            if watch is not None and sys.stdout.isatty() and not as_json:
                click.echo(_CLEAR, nl=False)
            _print(found, as_json=as_json, one_line=watch is not None)
            if watch is None:
                return
            sys.stdout.flush()
            await asyncio.sleep(watch)

    run(dsn, tell)


def _print(found: BusStatus, *, as_json: bool, one_line: bool) -> None:
    if as_json:
        print_json(found, one_line=one_line)
        return
    click.echo(f"{found.taken_at:%Y-%m-%d %H:%M:%S} UTC; rates and latencies over {found.window} s")
    click.echo(_replies(found))
    if not found.domains:
        click.echo("no domain has a live command or a worker")
        return
    _table(_DOMAINS, (_domain_row(domain) for domain in found.domains))
    _table(_RATES, (_rates_row(domain) for domain in found.domains))
    _table(_TYPES, _type_rows(found))
    _table(("domain", "parked type", "parked"), _parked_rows(found))
    _table(_WORKERS, (_worker_row(worker) for domain in found.domains for worker in domain.workers))


def _table(columns: tuple[str, ...], rows: Iterator[dict[str, Any]]) -> None:
    if listed := list(rows):
        click.echo()
        print_table(listed, columns, as_json=False)


def _replies(found: BusStatus) -> str:
    if found.oldest_reply is None:
        return "no reply waits for its consumer"
    return f"replies that wait for their consumer: {found.waiting_replies:,}, the oldest for {_age(found.oldest_reply)}"


def _domain_row(domain: DomainStatus) -> dict[str, Any]:
    def count(name: str, number: int) -> str:
        return f"{'~' if name in domain.estimated else ''}{number:,}{'+' if name in domain.at_least else ''}"

    return dict(
        zip(
            _DOMAINS,
            (
                domain.domain,
                count("backlog", domain.backlog),
                _age(domain.oldest_due),
                count("in_flight", domain.in_flight),
                count("expired_leases", domain.expired_leases),
                count("scheduled", domain.scheduled),
                count("parked", sum(domain.parked.values())),
                str(domain.live_workers),
            ),
            strict=True,
        )
    )


def _rates_row(domain: DomainStatus) -> dict[str, Any]:
    rates = [f"{rate:,.1f}" for rate in row_of(domain.rates).values()]
    return dict(zip(_RATES, (domain.domain, *rates), strict=True))


def _type_rows(found: BusStatus) -> Iterator[dict[str, Any]]:
    for domain in found.domains:
        for kind in domain.types:
            ran, waited = _latency(kind.ran), _latency(kind.waited)
            name = kind.command_type if len(found.domains) == 1 else f"{domain.domain}: {kind.command_type}"
            values = (name, f"{kind.rates.completed:,.1f}", *ran, waited[0], waited[2])
            yield dict(zip(_TYPES, values, strict=True))


def _parked_rows(found: BusStatus) -> Iterator[dict[str, Any]]:
    for domain in found.domains:
        for command_type, count in domain.parked.items():
            yield {"domain": domain.domain, "parked type": command_type, "parked": f"{count:,}"}


def _worker_row(worker: WorkerStatus) -> dict[str, Any]:
    return {
        **row_of(worker),
        "worker": worker.worker_id,
        "at once": worker.concurrency,
        "alive": _life(worker),
    }


def _life(worker: WorkerStatus) -> str:
    if not worker.is_alive:
        return "DEAD"
    return "yes" if worker.stop_requested_at is None else "stops"


def _latency(latency: Latency | None) -> tuple[str, str, str]:
    if latency is None:
        return ("-", "-", "-")
    return _duration(latency.p50), _duration(latency.p95), _duration(latency.p99)


def _duration(seconds: float) -> str:
    """Two or three digits that count: 0.02 ms, 4.1 ms, 130 ms, 2.5 s, 340 s."""
    number, unit = (seconds * 1_000, "ms") if seconds < 1 else (seconds, "s")
    return f"{number:.{2 if number < 1 else 1 if number < 10 else 0}f} {unit}"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
