"""The application as ASGI: the operator console with the routes and forms of StatementReports on top."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from psycopg_pool import AsyncConnectionPool

from commandbus.web import ConsoleSettings, Site, create_console
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
    asgi.include_router(api.router(services))
    asgi.include_router(web.router(services, site))
    asgi.mount("/static/app", StaticFiles(directory=_HERE / "static"), name="static_app")
    _close_with(asgi, services)
    return asgi


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
