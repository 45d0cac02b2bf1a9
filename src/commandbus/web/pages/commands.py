"""Commands: the list with its filters, and the page of one with its attempts, its trail and what to do next."""

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import Response

from commandbus.models import CommandStatus
from commandbus.web.pages import advice, command_line
from commandbus.web.pages.asking import Asked, find_page
from commandbus.web.pages.common import id_of, is_cut, known_types
from commandbus.web.site import NavLink
from commandbus.web.timeline import draw

if TYPE_CHECKING:
    from commandbus.web.console import Console


def router(console: "Console") -> APIRouter:
    """Return the routes /commands and /commands/{id}."""
    routes = APIRouter(include_in_schema=False)
    site, bus = console.site, console.bus
    site.add_nav(NavLink("Commands", "/commands", order=40))

    @routes.get("/commands", name="commands")
    async def listing(request: Request) -> Response:
        asked = Asked(request.query_params)
        domain = asked.name("domain", "Domain", console.app.domains(console.pool))
        command_type = asked.name("command_type", "Command type", known_types(console))
        status = asked.choice("status", "Status", CommandStatus)
        after, before = asked.time("created_after", "Created from"), asked.time("created_before", "Created before")
        page = await find_page(
            asked,
            lambda cursor: bus.query_commands(domain, status, command_type, after, before, asked.limit, cursor),
        )
        return site.render(
            request, "commands.html", status_code=422 if asked.errors else 200, asked=asked, page=page, path="/commands"
        )

    @routes.get("/commands/{command_id}", name="command")
    async def one(request: Request, command_id: str) -> Response:
        command = await bus.get_command(id_of(command_id, "command"))
        events = await bus.get_audit_trail(command.command_id)
        now = await bus.now()
        handled = command.status.is_terminal or await bus.is_handled(command.domain, command.command_type)
        return site.render(
            request,
            "command.html",
            command=command,
            events=events,
            timeline=draw([(command.command_id, command.command_type, events)], now, cut=is_cut(request)),
            advice=advice.for_command(command, events, now, is_handled=handled),
            panels=await site.panels.of_command(command, events),
            line=command_line.line("audit", command.command_id),
        )

    return routes
