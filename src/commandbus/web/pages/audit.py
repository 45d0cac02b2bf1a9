"""The audit trail: what happened to one command, to a process's commands, or to those that filters find."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING
from uuid import UUID

from fastapi import APIRouter, Request
from fastapi.responses import Response

from commandbus.errors import CommandNotFoundError
from commandbus.models import AuditEvent, CommandMetadata, CommandStatus, Page
from commandbus.process.repository import ProcessRepository
from commandbus.web.pages import command_line
from commandbus.web.pages.asking import Asked, find_page
from commandbus.web.pages.common import known_types
from commandbus.web.site import NavLink

if TYPE_CHECKING:
    from commandbus.web.console import Console

_LOOK = 500  # commands whose trails one look reads in search of an event; without one, as many as are shown


class _Event(StrEnum):
    """What can be looked for."""

    SENT = "SENT"
    RECEIVED = "RECEIVED"
    COMPLETED = "COMPLETED"
    RETRY_SCHEDULED = "RETRY_SCHEDULED"
    MOVED_TO_TSQ = "MOVED_TO_TSQ"
    BUSINESS_RULE_FAILED = "BUSINESS_RULE_FAILED"
    RELEASED = "RELEASED"
    CANCELED = "CANCELED"
    OPERATOR_RETRY = "OPERATOR_RETRY"
    OPERATOR_CANCEL = "OPERATOR_CANCEL"
    OPERATOR_COMPLETE = "OPERATOR_COMPLETE"
    LEASE_EXTENDED = "LEASE_EXTENDED"
    LATE_OUTCOME_DROPPED = "LATE_OUTCOME_DROPPED"


@dataclass(frozen=True, slots=True)
class _Trail:
    """One command and those of its events that were looked for."""

    command_id: UUID
    domain: str | None
    command_type: str
    status: CommandStatus
    events: Sequence[AuditEvent]


def router(console: "Console") -> APIRouter:
    """Return the route /audit."""
    routes = APIRouter(include_in_schema=False)
    site = console.site
    site.add_nav(NavLink("Audit", "/audit", order=60))

    @routes.get("/audit", name="audit")
    async def search(request: Request) -> Response:
        asked = Asked(request.query_params)
        subject = asked.id("id", "Command or process")
        domain = asked.name("domain", "Domain", console.app.domains(console.pool))
        command_type = asked.name("command_type", "Command type", known_types(console))
        status = asked.choice("status", "Status", CommandStatus)
        event = asked.choice("event", "Event", _Event)
        after, before = asked.time("created_after", "Sent from"), asked.time("created_before", "Sent before")

        async def newest(cursor: str | None) -> Page[_Trail]:
            limit = asked.limit if event is None else _LOOK
            found = await console.bus.query_commands(domain, status, command_type, after, before, limit, cursor)
            trails = await console.bus.get_audit_trails([command.command_id for command in found.items])
            shown = [_of(command, trails.get(command.command_id, []), event) for command in found.items]
            return Page([trail for trail in shown if trail.events], found.next_cursor)

        if subject is not None and not asked.errors:
            page = Page(await _of_subject(console, subject, event), None)
        else:
            page = await find_page(asked, newest)
        return site.render(
            request,
            "audit.html",
            status_code=422 if asked.errors else 200,
            asked=asked,
            page=page,
            path="/audit",
            line=command_line.line("audit", subject),
        )

    return routes


def _of(command: CommandMetadata, events: Sequence[AuditEvent], event: _Event | None) -> _Trail:
    return _Trail(command.command_id, command.domain, command.command_type, command.status, _wanted(events, event))


def _wanted(events: Sequence[AuditEvent], event: _Event | None) -> list[AuditEvent]:
    return [each for each in events if event is None or each.event_type == event]


async def _of_subject(console: "Console", subject: UUID, event: _Event | None) -> list[_Trail]:
    """The trail of a command, or those of all that a process has sent; none for another id."""
    try:
        command = await console.bus.get_command(subject)
    except CommandNotFoundError:
        entries = (await ProcessRepository(console.pool).get_audit_trail(subject))[-_LOOK:]
        events = await console.bus.get_audit_trails([entry.command_id for entry in entries])
        return [
            _Trail(e.command_id, None, e.command_type, e.status, _wanted(events.get(e.command_id, []), event))
            for e in entries
        ]
    return [_of(command, await console.bus.get_audit_trail(subject), event)]
