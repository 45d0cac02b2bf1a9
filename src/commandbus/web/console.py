"""The console as an ASGI application: its parts, its routes, how its errors look."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

import psycopg
from fastapi import FastAPI, Request, Response
from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from psycopg import errors as sqlstates
from psycopg_pool import PoolTimeout
from starlette.exceptions import HTTPException

from commandbus._core.connection import Pool
from commandbus.app import App
from commandbus.bus import CommandBus
from commandbus.errors import BatchNotFoundError, CommandNotFoundError, ProcessNotFoundError
from commandbus.troubleshooting import TroubleshootingQueue
from commandbus.web import dashboard, live, pages, signing_in
from commandbus.web.security import Guard
from commandbus.web.settings import ConsoleSettings
from commandbus.web.site import Site

_STATIC = Path(__file__).with_name("static")


@dataclass(frozen=True, slots=True)
class Console:
    """What the pages work with. `pool` is the application's own, which the console neither opens nor closes."""

    app: App
    pool: Pool
    bus: CommandBus
    tsq: TroubleshootingQueue
    site: Site
    live: live.Live
    settings: ConsoleSettings


def create_console(
    app: App, pool: Pool, settings: ConsoleSettings | None = None, *, site: Site | None = None
) -> FastAPI:
    """Return the console of an application, to be served or mounted; `.state.console` is its Console.

    `site` brings the links and templates of an application's own pages, whose routers it then includes.
    """
    site = site or Site(settings or ConsoleSettings())
    settings = site.settings
    console = Console(
        app=app,
        pool=pool,
        bus=CommandBus(pool),
        tsq=TroubleshootingQueue(pool, processes=app.processes(pool)),
        site=site,
        live=live.Live(pool, sorted(app.domains(pool)), max_subscribers=settings.max_sockets),
        settings=settings,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await console.live.close()

    # FastAPI's own pages about the API would load from elsewhere
    asgi = FastAPI(title=settings.title, version=_version(), docs_url=None, redoc_url=None, lifespan=lifespan)
    asgi.state.console = console
    asgi.mount("/static/console", StaticFiles(directory=_STATIC), name="static_console")
    for router in (dashboard.router, live.router, signing_in.router, *pages.ROUTERS):
        asgi.include_router(router(console))
    _add_problems(asgi, site)
    asgi.add_middleware(Guard, site=site)
    return asgi


def _add_problems(asgi: FastAPI, site: Site) -> None:
    """Show errors as pages to people, as JSON to programs."""

    async def http(request: Request, error: Exception) -> Response:
        status, detail = getattr(error, "status_code", 500), getattr(error, "detail", "")
        title = getattr(error, "title", None) or _TITLES.get(status, "It did not work")
        if detail == HTTPStatus(status).phrase:  # the framework's own word
            detail = _TEXTS.get(status, detail)
        response = site.problem(request, status, title, str(detail))
        response.headers.update(getattr(error, "headers", None) or {})
        return response

    async def missing(request: Request, error: Exception) -> Response:
        return site.problem(request, 404, _TITLES[404], str(error))

    async def no_database(request: Request, _: Exception) -> Response:
        return site.problem(
            request, 503, "No database", "The database does not answer. The page works again once it does."
        )

    async def no_right(request: Request, error: Exception) -> Response:
        return site.problem(
            request,
            403,
            "The database refused",
            f"{_first_line(error)}. GRANT the console's database user commandbus_operator: commandbus migrate --roles",
        )

    async def other_schema(request: Request, error: Exception) -> Response:
        return site.problem(
            request,
            503,
            "The database is not migrated",
            f"{_first_line(error)}. Bring the schema up to date: commandbus migrate --dsn ...",
        )

    async def bad_form(request: Request, error: Exception) -> Response:
        invalid = cast("RequestValidationError", error)
        if "text/html" not in request.headers.get("accept", ""):  # a program gets the framework's list
            return await request_validation_exception_handler(request, invalid)
        names = ", ".join(str(problem["loc"][-1]) for problem in invalid.errors())
        return site.problem(
            request, 422, _TITLES[422], f"Missing, too long or not understood: {names}. Go back, and correct the form."
        )

    asgi.add_exception_handler(RequestValidationError, bad_form)
    asgi.add_exception_handler(HTTPException, http)
    asgi.add_exception_handler(sqlstates.InsufficientPrivilege, no_right)
    for lacking in (
        sqlstates.InvalidSchemaName,
        sqlstates.UndefinedTable,
        sqlstates.UndefinedFunction,
        sqlstates.UndefinedColumn,
    ):
        asgi.add_exception_handler(lacking, other_schema)
    for kind in (CommandNotFoundError, BatchNotFoundError, ProcessNotFoundError):
        asgi.add_exception_handler(kind, missing)
    for lost in (psycopg.OperationalError, PoolTimeout):
        asgi.add_exception_handler(lost, no_database)


_TITLES = {
    404: "Not found",
    405: "Not this way",
    413: "Too large",
    422: "Not understood",
    429: "Too many",
    503: "Not now",
}

_TEXTS = {
    404: "There is no page at this address.",
    405: "This address does not take this method.",
}


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _version() -> str:
    try:
        return version("pytest-commandbus")
    except PackageNotFoundError:  # run without having been installed
        return "0"
