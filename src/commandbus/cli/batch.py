"""`commandbus batch`: list, show, watch and cancel batches."""

import asyncio
import time
from typing import Any
from uuid import UUID

import click

from commandbus import BatchMetadata, BatchStatus, CommandBus
from commandbus._core.connection import Pool
from commandbus.app import App
from commandbus.cli.database import dsn_option
from commandbus.cli.failures import Failure
from commandbus.cli.loading import load_app
from commandbus.cli.output import json_option, print_json, print_record, print_table, row_of, run
from commandbus.cli.progress import progress
from commandbus.cli.user import user
from commandbus.errors import BatchNotFoundError, InvalidOperationError
from commandbus.models import BatchCancellation, BatchType, Page

_COLUMNS = ("batch_id", "domain", "batch_type", "name", "status", "progress", "parked", "created_at", "completed_at")
_REST = 10  # a look that took n seconds is followed by a pause of this many times n, so that watching costs little


@click.group(short_help="List, show, watch and cancel batches.")
def batch() -> None:
    """Batches of commands and of processes: how far they are, and what is to be cancelled."""


@batch.command("list", short_help="List batches, newest first.")
@click.option("--domain", help="Of this domain.")
@click.option("--type", "batch_type", type=click.Choice([*BatchType], case_sensitive=False), help="Of this type.")
@click.option("--status", type=click.Choice([*BatchStatus], case_sensitive=False), help="In this status.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=20, show_default=True, help="Most batches to list.")
@click.option("--cursor", help="Go on where the page before ended: what it told as next.")
@dsn_option
@json_option
def list_(
    domain: str | None,
    batch_type: str | None,
    status: str | None,
    limit: int,
    cursor: str | None,
    dsn: str,
    as_json: bool,
) -> None:
    """List batches, newest first, their counts as of now.

    With --json they come as "items", each whole, and the cursor of the next page as "next_cursor".

    \b
    Examples:
      commandbus batch list
      commandbus batch list --domain orders --status IN_PROGRESS --json
    """

    async def look(pool: Pool) -> Page[BatchMetadata]:
        return await CommandBus(pool).list_batches(
            domain,
            None if batch_type is None else BatchType(batch_type),
            None if status is None else BatchStatus(status),
            limit,
            cursor,
        )

    page = run(dsn, look)
    if as_json:
        print_json({"items": [row_of(found) for found in page.items], "next_cursor": page.next_cursor})
        return
    print_table([_row(found) for found in page.items], _COLUMNS, as_json=False)
    if page.next_cursor:
        click.echo(f"\nnext: --cursor {page.next_cursor}")


@batch.command(short_help="Show one batch, or watch it until it has ended.")
@click.argument("batch_id", metavar="ID", type=click.UUID)
@click.option("--watch", is_flag=True, help="Show its progress on stderr until it has ended.")
@click.option(
    "--interval",
    type=click.FloatRange(0.05, 3_600),
    default=1.0,
    show_default=True,
    help="Seconds between two looks of --watch.",
)
@dsn_option
@json_option
def show(batch_id: UUID, watch: bool, interval: float, dsn: str, as_json: bool) -> None:
    """Show one batch with its counts as of now.

    With --watch a bar (where stderr is no terminal: a line for each change) shows how far it is, and the batch is
    printed once all its members have ended.

    \b
    Examples:
      commandbus batch show 0190163d-8694-739b-aea5-966c26f8ad91 --watch
      commandbus batch show 0190163d-8694-739b-aea5-966c26f8ad91 --json
    """

    async def look(pool: Pool) -> BatchMetadata:
        bus = CommandBus(pool)
        found = await _find(bus, batch_id)
        return await _watch(bus, found, interval) if watch else found

    print_record(row_of(run(dsn, look)), as_json=as_json)


@batch.command(short_help="Cancel what has not run of a batch.")
@click.argument("batch_id", metavar="ID", type=click.UUID)
@click.option("--operator", help="Who does it, for the audit trail. [default: the user of this process]")
@click.option("--reason", default="", help="Why, for the audit trail.")
@click.option(
    "--app",
    "application",
    metavar="MODULE:APP",
    help="The application of the processes of a PROCESS batch: needed there.",
)
@dsn_option
@json_option
def cancel(batch_id: UUID, operator: str | None, reason: str, application: str | None, dsn: str, as_json: bool) -> None:
    """Cancel what has not run of a batch.

    Of a batch of commands: those that no worker has claimed; one that runs ends by itself. Of a batch of processes:
    each open one, which undoes the steps that it has completed; a step that runs ends first. What was never started is
    taken off the batch, so that one whose producer died ends.

    \b
    Examples:
      commandbus batch cancel 0190163d-8694-739b-aea5-966c26f8ad91 --reason "wrong month"
      commandbus batch cancel 0190163d-8694-739b-aea5-966c26f8ad91 --app shop.main:app
    """
    app = None if application is None else load_app(application)
    who = {"operator": operator or user(), "reason": reason}
    done = run(dsn, lambda pool: _cancel(pool, batch_id, app, who))
    if as_json:
        print_json(done)
        return
    still = f"; {done.in_flight:,} in flight end first" if done.in_flight else ""
    click.echo(f"cancelled {done.canceled:,} member{'' if done.canceled == 1 else 's'}{still}")


async def _cancel(pool: Pool, batch_id: UUID, app: App | None, who: dict[str, str]) -> BatchCancellation:
    """Cancel with a bar; one that is broken off tells how far it came."""
    bus = CommandBus(pool)
    found = await _find(bus, batch_id)
    done = 0
    with progress(found.total_count - _ended(found), lines=False) as show_progress:

        def note(so_far: int) -> None:
            nonlocal done
            done = so_far
            show_progress(so_far, "cancelled")

        try:
            processes = () if app is None else app.processes(pool)
            return await bus.cancel_batch(found.domain, batch_id, processes=processes, on_progress=note, **who)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, InvalidOperationError) and not found.status.is_final:
                raise Failure(f"{error} (--app MODULE:APP: an application that has them)") from error
            if done:
                click.echo(f"cancelled {done:,} before it was broken off; ask again", err=True)
            raise


async def _watch(bus: CommandBus, found: BatchMetadata, interval: float) -> BatchMetadata:
    """Look until the batch has ended."""
    pause = interval
    with progress(found.total_count, lines=True) as show_progress:
        show_progress(_ended(found), _told(found))
        while not found.status.is_final:
            await asyncio.sleep(pause)
            began = time.monotonic()
            found = await bus.get_batch(found.domain, found.batch_id)
            pause = max(interval, _REST * (time.monotonic() - began))
            show_progress(_ended(found), _told(found))
    return found


async def _find(bus: CommandBus, batch_id: UUID) -> BatchMetadata:
    try:
        return await bus.get_batch(None, batch_id)
    except BatchNotFoundError as error:
        raise Failure(f"no batch has the id {batch_id}; it may be of another database (--dsn), or pruned") from error


def _ended(found: BatchMetadata) -> int:
    return found.completed_count + found.failed_count + found.canceled_count


def _told(found: BatchMetadata) -> str:
    counts = {
        "completed": found.completed_count,
        "failed": found.failed_count,
        "cancelled" if found.batch_type is BatchType.COMMAND else "failed or cancelled": found.canceled_count,
        "parked": found.in_troubleshooting_count,
    }
    return ", ".join([str(found.status), *(f"{count:,} {what}" for what, count in counts.items() if count)])


def _row(found: BatchMetadata) -> dict[str, Any]:
    progress_text = f"{_ended(found):,} of {found.total_count:,}"
    return row_of(found) | {"progress": progress_text, "parked": found.in_troubleshooting_count}
