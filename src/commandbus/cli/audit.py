"""`commandbus audit`: the auditor over the database, or the trail of one command or process."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import click

from commandbus import CommandBus
from commandbus._core.connection import Pool
from commandbus.auditor import AUDIT_RULES, Violation
from commandbus.auditor import audit as find_violations
from commandbus.cli.database import dsn_option
from commandbus.cli.failures import Misuse
from commandbus.cli.output import json_option, print_json, print_record, print_table, row_of, run, shown
from commandbus.errors import CommandBusError, CommandNotFoundError
from commandbus.models import AuditEvent, CommandMetadata
from commandbus.process import ProcessAuditEntry, ProcessMetadata, ProcessRepository

_EVENT_COLUMNS = ("timestamp", "event", "epoch", "worker", "attempt", "lease_until", "details")
_STEP_COLUMNS = ("step", "command_id", "command_type", "status", "attempts", "sent_at", "completed_at", "note")
_COMMAND_FIELDS = ("command_id", "domain", "command_type", "status", "process_id", "step", "batch_id", "data", "result")
_PROCESS_FIELDS = ("process_id", "domain", "process_type", "status", "current_step", "batch_id", "state")
_ERROR_FIELDS = ("error_code", "error_message")


@dataclass(frozen=True, slots=True)
class CommandTrail:
    """A command and its audit trail."""

    command: CommandMetadata
    events: list[AuditEvent]


@dataclass(frozen=True, slots=True)
class ProcessTrail:
    """A process and the commands that it has sent."""

    process: ProcessMetadata
    trail: list[ProcessAuditEntry]


@click.command(short_help="Check every invariant, or show a command or process trail.")
@click.argument("subject", metavar="[ID]", required=False, type=click.UUID)
@click.option("--domain", "domains", multiple=True, help="Report about this domain only. Repeatable. [default: all]")
@click.option("--at-rest", is_flag=True, help="Check also what must hold once nothing is left to do.")
@dsn_option
@json_option
def audit(subject: UUID | None, domains: tuple[str, ...], at_rest: bool, dsn: str, as_json: bool) -> None:
    """Hold the database against every invariant of the bus; exit code 1 when one is broken.

    It reads whole tables as of one moment, and may run beside workers. With the ID of a command or of a process it
    shows that audit trail instead.

    \b
    Examples:
      commandbus audit
      commandbus audit --at-rest --domain orders --json
      commandbus audit 0190163d-8694-739b-aea5-966c26f8ad91
    """
    if subject is not None:
        if domains or at_rest:
            raise Misuse("--domain and --at-rest choose what is checked; leave them out to see the trail of an ID")
        _show_trail(run(dsn, lambda pool: _trail(pool, subject)), as_json)
        return
    violations = run(dsn, lambda pool: _violations(pool, domains, at_rest))
    if violations or as_json:
        print_table([row_of(v) for v in violations], ["rule", "subject", "message"], as_json=as_json)
    else:
        click.echo("nothing wrong")
    if violations and not as_json:
        click.echo()
        for rule in dict.fromkeys(violation.rule for violation in violations):
            click.echo(f"{rule}: {AUDIT_RULES[rule]}")
    if violations:
        raise click.exceptions.Exit(1)


async def _violations(pool: Pool, domains: tuple[str, ...], at_rest: bool) -> list[Violation]:
    async with pool.connection() as conn:
        return await find_violations(conn, liveness=at_rest, domains=domains or None)


async def _trail(pool: Pool, subject: UUID) -> CommandTrail | ProcessTrail:
    bus, processes = CommandBus(pool), ProcessRepository(pool)
    async with pool.connection() as conn:
        try:
            command = await bus.get_command(subject, conn=conn)
        except CommandNotFoundError:
            process = await processes.get(subject, conn)
            if process is None:
                raise CommandBusError(
                    f"no command and no process has the id {subject}; it may be of another database (--dsn), or pruned"
                ) from None
            return ProcessTrail(process, await processes.get_audit_trail(subject, conn))
        return CommandTrail(command, await bus.get_audit_trail(subject, conn=conn))


def _show_trail(found: CommandTrail | ProcessTrail, as_json: bool) -> None:
    if as_json:
        print_json(found)
    elif isinstance(found, CommandTrail):
        print_record(_fields(row_of(found.command), _COMMAND_FIELDS), as_json=False)
        click.echo()
        print_table([_event_row(event) for event in found.events], _EVENT_COLUMNS, as_json=False)
    else:
        print_record(_fields(row_of(found.process), _PROCESS_FIELDS), as_json=False)
        click.echo()
        print_table([_step_row(entry) for entry in found.trail], _STEP_COLUMNS, as_json=False)


def _fields(row: dict[str, Any], always: tuple[str, ...]) -> dict[str, Any]:
    """The fields to show: those of the error only when there is one."""
    return {name: row[name] for name in (*always, *_ERROR_FIELDS) if name in always or row[name] is not None}


def _event_row(event: AuditEvent) -> dict[str, Any]:
    attempt = None if event.attempt is None else f"{event.attempt} of {shown(event.max_attempts)}"
    return {
        "timestamp": event.timestamp.isoformat(sep=" ", timespec="milliseconds"),
        "event": event.event_type,
        "epoch": event.epoch,
        "worker": event.worker_id,
        "attempt": attempt if event.max_attempts is not None else event.attempt,
        "lease_until": event.lease_until,
        "details": event.details or None,
    }


def _step_row(entry: ProcessAuditEntry) -> dict[str, Any]:
    row = row_of(entry)
    error = ": ".join(part for part in (entry.error_code, entry.error_message) if part)
    undoes = f"undoes {entry.compensates}" if entry.compensates is not None else ""
    row["step"] = entry.step if entry.visit == 1 else f"{entry.step} ({entry.visit})"
    return row | {"note": "; ".join(part for part in (undoes, error) if part)}
