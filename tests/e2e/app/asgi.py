"""The application as ASGI: the operator console with the routes and forms of StatementReports on top."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from fastapi import FastAPI, Request, Response
from fastapi.staticfiles import StaticFiles
from psycopg_pool import AsyncConnectionPool
from starlette.routing import Match, Route

from commandbus import AuditEvent, CommandMetadata
from commandbus.process import ProcessMetadata
from commandbus.process.models import ProcessAuditEntry
from commandbus.web import ConsoleSettings, Panel, Site, create_console
from tests.e2e.app.api import routes as api
from tests.e2e.app.main import app
from tests.e2e.app.services import Services
from tests.e2e.app.web import routes as web

_HERE = Path(__file__).parent
TITLE = "Statement reports"


def create_asgi(pool: AsyncConnectionPool[Any], settings: ConsoleSettings | None = None) -> FastAPI:
    """Return the application over a pool on a prepared database; `.state.services` is what its routes work with."""
    site = Site(settings or ConsoleSettings(title=TITLE))
    site.add_templates(_HERE / "templates")
    services = Services.over(pool, app.retry_policy.max_attempts)
    asgi = create_console(app, pool, site=site)
    asgi.state.services = services
    _show_behaviors(site, services)
    _show_load_test(site, services)
    asgi.include_router(api.router(services))
    asgi.include_router(web.router(services, site))
    asgi.mount("/static/app", StaticFiles(directory=_HERE / "static"), name="static_app")
    _tell_all_methods(asgi, site)
    _close_with(asgi, services)
    return asgi


def _show_behaviors(site: Site, services: Services) -> None:
    """Show on the pages of commands and processes the behavior that applied."""

    async def panel(labels: Mapping[UUID, str]) -> Panel | None:
        stored = (await services.behaviors.prepare(list(labels), [], run=False)).behaviors
        found = [
            (label, stored[one].model_dump(exclude_defaults=True)) for one, label in labels.items() if one in stored
        ]
        return Panel("Behavior that applied", "behavior_panel.html", {"behaviors": found}) if found else None

    @site.panels.on_command
    async def of_command(command: CommandMetadata, _: Sequence[AuditEvent]) -> Panel | None:
        return await panel({command.command_id: command.command_type})

    @site.panels.on_process
    async def of_process(_: ProcessMetadata, trail: Sequence[ProcessAuditEntry]) -> Panel | None:
        return await panel({entry.command_id: entry.step for entry in trail})


def _show_load_test(site: Site, services: Services) -> None:
    """Show on the dashboard how the newest load test fares."""

    @site.panels.on_dashboard
    async def metrics() -> Panel:
        return Panel("Load Test Metrics", "load_test_panel.html", await services.stats.metrics(None))


def _tell_all_methods(asgi: FastAPI, site: Site) -> None:
    """Let a 405 name every method of its path: by itself it names those of the first route."""

    async def not_this_way(request: Request, _: Exception) -> Response:
        allowed = {
            method
            for route in asgi.routes
            if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
            for method in route.methods or ()
        }
        response = site.problem(request, 405, "Not this way", f"{request.url.path} does not know {request.method}.")
        response.headers["allow"] = ", ".join(sorted(allowed))
        return response

    asgi.add_exception_handler(405, not_this_way)


def _close_with(asgi: FastAPI, services: Services) -> None:
    """End what is made in the background before the console ends."""
    console_lifespan = asgi.router.lifespan_context

    @asynccontextmanager
    async def lifespan(of: FastAPI) -> AsyncIterator[Any]:
        async with console_lifespan(of) as state:
            try:
                yield state
            finally:
                await services.creator.close()

    asgi.router.lifespan_context = lifespan
