"""`commandbus tsq`: the commands in the troubleshooting queue, and what an operator does with them."""

import asyncio
import functools
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import click

from commandbus import CommandBus
from commandbus._core.connection import Pool
from commandbus.app import App
from commandbus.cli.database import dsn_option
from commandbus.cli.failures import Misuse
from commandbus.cli.loading import load_app
from commandbus.cli.output import json_option, print_json, print_record, print_table, row_of, run
from commandbus.cli.progress import progress
from commandbus.cli.user import user
from commandbus.models import AuditEvent, BulkResult, Page, TroubleshootingFilter, TroubleshootingItem
from commandbus.troubleshooting import TroubleshootingQueue

_COLUMNS = ("command_id", "domain", "command_type", "attempts", "error_code", "error_message", "moved_at")
_EVENT_COLUMNS = ("timestamp", "event", "attempt", "details")
_PARTICIPLES = {"retry": "retried", "cancel": "cancelled", "complete": "completed"}
_Decorated = Callable[..., Any]
_Decorator = Callable[[_Decorated], _Decorated]


def _time(_context: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        raise Misuse(
            f"{parameter.opts[0]}: {value!r} is no time; write for example 2026-01-31T12:00:00Z (UTC without a zone)"
        ) from None
    return time if time.utcoffset() is not None else time.replace(tzinfo=UTC)


def _filter_options(function: _Decorated) -> _Decorated:
    """Add what chooses parked commands; the command gets it as `where: TroubleshootingFilter`."""

    @functools.wraps(function)
    def command(
        domain: str | None,
        command_type: str | None,
        error_code: str | None,
        batch_id: UUID | None,
        moved_after: datetime | None,
        moved_before: datetime | None,
        **others: Any,
    ) -> Any:
        where = TroubleshootingFilter(domain, command_type, error_code, batch_id, moved_after, moved_before)
        return function(where=where, **others)

    options: list[_Decorator] = [
        click.option("--domain", help="Of this domain."),
        click.option("--type", "command_type", help="Of this command type."),
        click.option("--error-code", help="Whose last error has this code."),
        click.option("--batch", "batch_id", type=click.UUID, help="Of this batch, or of a process of this batch."),
        click.option("--moved-after", callback=_time, metavar="TIME", help="Parked at this time or later."),
        click.option("--moved-before", callback=_time, metavar="TIME", help="Parked before this time."),
    ]
    return _decorate(command, options)


def _decorate(function: _Decorated, decorators: Sequence[_Decorator]) -> _Decorated:
    """As if they stood above the function in this order."""
    return functools.reduce(lambda decorated, decorator: decorator(decorated), reversed(decorators), function)


@click.group(short_help="Look at parked commands; retry, cancel or complete them.")
def tsq() -> None:
    """The troubleshooting queue: commands that failed for good and wait for an operator."""


@tsq.command("list", short_help="List parked commands, the one that has waited longest first.")
@_filter_options
@click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True, help="Most commands to list.")
@click.option("--cursor", help="Go on where the page before ended: what it told as next.")
@dsn_option
@json_option
def list_(where: TroubleshootingFilter, limit: int, cursor: str | None, dsn: str, as_json: bool) -> None:
    """List parked commands, the one that has waited longest first.

    With --json they come as "items", each whole, and the cursor of the next page as "next_cursor".

    \b
    Examples:
      commandbus tsq list --domain orders
      commandbus tsq list --error-code TIMEOUT --moved-after 2026-01-31T12:00:00Z --json
    """

    async def look(pool: Pool) -> tuple[Page[TroubleshootingItem], int]:
        queue = TroubleshootingQueue(pool)
        page = await queue.list_troubleshooting(where=where, limit=limit, cursor=cursor)
        return page, await queue.count_troubleshooting(where=where)

    page, count = run(dsn, look)
    if as_json:
        print_json({"items": [row_of(item) for item in page.items], "next_cursor": page.next_cursor})
        return
    if not page.items:
        click.echo("nothing is parked" if where == TroubleshootingFilter() else "nothing is parked that this finds")
        return
    print_table([row_of(item) for item in page.items], _COLUMNS, as_json=False)
    click.echo(f"\n{len(page.items):,} of {count:,} parked", nl=False)
    click.echo(f"; next: --cursor {page.next_cursor}" if page.next_cursor else "")


@tsq.command(short_help="Show one parked command, with how its attempts ended.")
@click.argument("command_id", metavar="ID", type=click.UUID)
@dsn_option
@json_option
def show(command_id: UUID, dsn: str, as_json: bool) -> None:
    """Show one parked command: its payload, its last error, and its audit trail.

    \b
    Example:
      commandbus tsq show 0190163d-8694-739b-aea5-966c26f8ad91
    """

    async def look(pool: Pool) -> tuple[TroubleshootingItem, list[AuditEvent]]:
        item = await TroubleshootingQueue(pool).get_troubleshooting(command_id)
        return item, await CommandBus(pool).get_audit_trail(command_id)

    item, events = run(dsn, look)
    if as_json:
        print_json(row_of(item) | {"events": [row_of(event) for event in events]})
        return
    print_record({name: value for name, value in row_of(item).items() if value is not None}, as_json=False)
    click.echo()
    print_table([_event_row(event) for event in events], _EVENT_COLUMNS, as_json=False)


def _event_row(event: AuditEvent) -> dict[str, Any]:
    return row_of(event) | {"event": event.event_type, "details": event.details or None}


@dataclass(frozen=True)
class _Asked:
    """What an action was asked to do: for these ids, or for what a filter finds."""

    ids: tuple[UUID, ...]
    where: TroubleshootingFilter
    who: dict[str, str]
    app: App | None
    dsn: str


def _action_options(function: _Decorated) -> _Decorated:
    """Add what the three actions have in common; the command gets it as `asked`, after a look at how it is asked."""

    @functools.wraps(function)
    def command(
        ids: tuple[UUID, ...],
        where: TroubleshootingFilter,
        is_all: bool,
        operator: str | None,
        reason: str,
        application: str | None,
        is_sure: bool,
        dsn: str,
        **others: Any,
    ) -> Any:
        chosen = [bool(ids), where != TroubleshootingFilter(), is_all]
        if sum(chosen) != 1:
            raise Misuse(
                "choose the commands by their IDs, by options such as --domain, --type or --error-code, "
                "or with --all: by one of the three"
            )
        if not ids and not is_sure and not sys.stdin.isatty():
            raise Misuse("this may change many commands, and nobody can be asked here: pass --yes to do it")
        app = None if application is None else load_app(application)
        who = {"operator": operator or user(), "reason": reason}
        return function(asked=_Asked(ids, where, who, app, dsn), is_sure=is_sure, **others)

    options: list[_Decorator] = [
        click.argument("ids", metavar="[ID]...", nargs=-1, type=click.UUID),
        _filter_options,
        click.option("--all", "is_all", is_flag=True, help="Every parked command."),
        click.option("--operator", help="Who does it, for the audit trail. [default: the user of this process]"),
        click.option("--reason", default="", help="Why, for the audit trail."),
        click.option(
            "--app",
            "application",
            metavar="MODULE:APP",
            help="Advance the processes of this application here. [default: its workers do]",
        ),
        click.option("--yes", "is_sure", is_flag=True, help="Do not ask before many commands are changed."),
        dsn_option,
        json_option,
    ]
    return _decorate(command, options)


@tsq.command(short_help="Give parked commands a new life.")
@_action_options
def retry(asked: _Asked, is_sure: bool, as_json: bool) -> None:
    """Give parked commands a new life: due at once, with all their attempts.

    Commands that are parked again while this runs are left. Exit code 1 when one of the IDs is not parked.

    \b
    Examples:
      commandbus tsq retry 0190163d-8694-739b-aea5-966c26f8ad91 --reason "the printer is back"
      commandbus tsq retry --domain orders --error-code TIMEOUT --yes
    """
    _act("retry", asked, is_sure, as_json)


@tsq.command(short_help="Cancel parked commands; their processes undo what was done.")
@_action_options
def cancel(asked: _Asked, is_sure: bool, as_json: bool) -> None:
    """Cancel parked commands. Their processes undo the steps that were completed, the last one first.

    Exit code 1 when one of the IDs is not parked.

    \b
    Examples:
      commandbus tsq cancel 0190163d-8694-739b-aea5-966c26f8ad91 --reason "ordered twice"
      commandbus tsq cancel --batch 0190163d-8694-739b-aea5-966c26f8ad91 --app shop:app
    """
    _act("cancel", asked, is_sure, as_json)


@tsq.command(short_help="Complete parked commands with a result; their processes go on.")
@_action_options
@click.option("--result", metavar="JSON", help="What the handler would have returned, a JSON object. [default: none]")
def complete(asked: _Asked, is_sure: bool, as_json: bool, result: str | None) -> None:
    """Complete parked commands as if their handlers had returned the result. Their processes go on.

    Exit code 1 when one of the IDs is not parked.

    \b
    Examples:
      commandbus tsq complete 0190163d-8694-739b-aea5-966c26f8ad91 --result '{"parcel": "P7"}'
    """
    try:
        value = None if result is None else json.loads(result)
    except ValueError as error:
        raise Misuse(f"""--result is no JSON: {error}; write for example '{{"parcel": "P7"}}'""") from None
    _act("complete", asked, is_sure, as_json, *([] if value is None else [value]))


def _act(action: str, asked: _Asked, is_sure: bool, as_json: bool, *arguments: Any) -> None:
    count = len(asked.ids)
    if not asked.ids:
        count = run(asked.dsn, lambda pool: TroubleshootingQueue(pool).count_troubleshooting(where=asked.where))
        if count and not is_sure:
            click.confirm(f"{action.capitalize()} {_commands(count)}?", abort=True, err=True)
    result = BulkResult(0)
    if count:
        result = run(asked.dsn, lambda pool: _ask(pool, action, asked, count, arguments))
    if as_json:
        wrong_state = {str(command_id): status for command_id, status in result.wrong_state.items()}
        print_json(row_of(result) | {"wrong_state": wrong_state})
    else:
        click.echo(f"{_PARTICIPLES[action]} {_commands(result.done)}")
    for command_id in result.not_found:
        click.echo(f"no command has the id {command_id}; it may be of another database (--dsn), or pruned", err=True)
    for command_id, status in result.wrong_state.items():
        click.echo(f"command {command_id} is {status}, not in the troubleshooting queue", err=True)
    if result.not_found or result.wrong_state:
        raise click.exceptions.Exit(1)


async def _ask(pool: Pool, action: str, asked: _Asked, count: int, arguments: tuple[Any, ...]) -> BulkResult:
    """Call the action; one that is broken off tells how far it came."""
    queue = TroubleshootingQueue(pool, processes=() if asked.app is None else asked.app.processes(pool))
    if asked.ids:
        many: Callable[..., Awaitable[BulkResult]] = getattr(queue, f"operator_{action}_many")
        return await many(asked.ids, *arguments, **asked.who)
    where: Callable[..., Awaitable[BulkResult]] = getattr(queue, f"operator_{action}_where")
    done = 0
    with progress(count, lines=False) as show_progress:

        def note(so_far: int) -> None:
            nonlocal done
            done = so_far
            show_progress(done, "")

        try:
            return await where(asked.where, *arguments, **asked.who, on_progress=note)
        except (Exception, asyncio.CancelledError):
            click.echo(f"{_PARTICIPLES[action]} {_commands(done)} before it was broken off; ask again", err=True)
            raise


def _commands(count: int) -> str:
    return f"{count:,} parked command" + ("" if count == 1 else "s")
