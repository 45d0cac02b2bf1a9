"""The operator console, and what an application adds to it, as type checkers see it; see api.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, assert_type

from fastapi import FastAPI, Request
from fastapi.responses import Response
from psycopg_pool import AsyncConnectionPool

from commandbus import App, AuditEvent, CommandBus, CommandMetadata, TroubleshootingQueue
from commandbus.process import ProcessAuditEntry, ProcessMetadata
from commandbus.web import (
    Console,
    ConsoleSettings,
    NavLink,
    NotAuthenticatedError,
    Panel,
    Panels,
    Site,
    Users,
    create_console,
    hash_password,
    serve,
)

users = Users({"ann": hash_password("a long one")})
site = Site(ConsoleSettings(title="Till", auth=users, max_bulk=500))
site.add_nav(NavLink("Reports", "/reports", order=5))
site.add_templates(Path("templates"))
assert_type(site.panels, Panels)
assert_type(users.check("ann", "a long one"), bool)
assert_type(Users.read(Path("users")), Users)


@site.panels.on_dashboard
async def weather() -> Panel | None:
    return Panel("Weather", "weather.html", {"sky": "grey"})


@site.panels.on_command
async def mood(command: CommandMetadata, events: Sequence[AuditEvent]) -> Panel | None:
    return None


@site.panels.on_process
async def map_of(process: ProcessMetadata, trail: Sequence[ProcessAuditEntry]) -> Panel | None:
    return None


def page(console: Console, request: Request) -> Response:
    assert_type(console.bus, CommandBus)
    assert_type(console.tsq, TroubleshootingQueue)
    assert_type(site.operator(request), str | None)
    return console.site.render(request, "reports.html", title="Reports")


async def start(app: App, pool: AsyncConnectionPool[Any]) -> None:
    try:
        asgi = create_console(app, pool, site=site)
        assert_type(asgi, FastAPI)
        await serve(asgi, port=8080)
    except NotAuthenticatedError as error:
        assert_type(str(error), str)
