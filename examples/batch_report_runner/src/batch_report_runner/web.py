"""The web application, put together."""

import contextlib
import math
from collections.abc import AsyncIterator
from typing import Any

import psycopg
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests
from starlette.exceptions import HTTPException

from . import api, pages, sockets
from .batches import Batches
from .bodies import BodyLimit
from .errors import RatesError, Refused
from .layers import Measured
from .limits import RateLimit, SocketLimit
from .metrics import Metrics
from .rows import back_to_transactions, check_quickly
from .settings import Settings
from .upkeep import Upkeep, kept_up
from .watching import Hub, ProgressSource

POOL_SIZE, POOL_PATIENCE = 12, 5.0


def create_web(settings: Settings, dsn: str, *, pool_size: int = POOL_SIZE) -> FastAPI:
    """Make the web application over the database at `dsn`, which is migrated."""

    @contextlib.asynccontextmanager
    async def lifespan(web: FastAPI) -> AsyncIterator[None]:
        pool: AsyncConnectionPool[Any] = AsyncConnectionPool(
            dsn,
            min_size=2,
            max_size=pool_size,
            timeout=POOL_PATIENCE,
            open=False,
            check=check_quickly,
            reset=back_to_transactions,
            kwargs={"application_name": "report web"},
        )
        async with pool:
            batches = Batches(pool, settings, metrics)
            web.state.pool, web.state.batches = pool, batches
            web.state.source = ProgressSource(pool)
            web.state.hub = hub = Hub(web.state.source.progress, metrics)
            web.state.upkeep = Upkeep(pool, dsn, batches, settings, metrics)
            async with kept_up(web.state.upkeep):
                yield
            await hub.close()

    metrics = Metrics()
    web = FastAPI(title="Batch report runner", lifespan=lifespan, docs_url=None, redoc_url=None)
    web.state.settings, web.state.metrics = settings, metrics
    web.state.preview_limit = RateLimit("previews", settings.previews_per_minute)
    web.state.start_limit = RateLimit("starts", settings.starts_per_minute)
    web.state.socket_limit = SocketLimit(settings.sockets_per_user)
    for router in (api.router, sockets.router, pages.router):
        web.include_router(router)
    web.mount("/static", StaticFiles(directory=pages.FOLDER / "static"), name="static")
    _add_layers(web, settings, metrics)
    _add_errors(web, metrics)

    @web.get("/metrics", include_in_schema=False)
    async def metrics_text() -> Response:
        return PlainTextResponse(metrics.text())

    @web.get("/healthz", include_in_schema=False)
    async def health(request: Request) -> Response:
        async with request.app.state.pool.connection() as conn:
            await conn.execute("SELECT 1")
        return PlainTextResponse("ok")

    return web


def _add_layers(web: FastAPI, settings: Settings, metrics: Metrics) -> None:
    if settings.cors_origins:
        web.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type"],
        )
    web.add_middleware(BodyLimit, most=settings.max_body)
    web.add_middleware(Measured, metrics=metrics)


def _add_errors(web: FastAPI, metrics: Metrics) -> None:
    def answer(request: Request, refused: Refused) -> Response:
        metrics.refused.labels(refused.code).inc()
        headers = {}
        if refused.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(refused.retry_after)))
        if refused.status == 401 and not request.url.path.startswith("/api/"):
            return RedirectResponse("/login", 303)
        if not request.url.path.startswith("/api/"):
            return pages.page(request, "refused.html", refused.status, refused=refused)
        body = {"error": {"code": refused.code, "message": refused.message}}
        return JSONResponse(body, refused.status, headers)

    @web.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        return answer(request, error)

    @web.exception_handler(RatesError)
    async def rates(request: Request, error: RatesError) -> Response:
        return answer(request, Refused(503, "NO_RATES", str(error), retry_after=60))

    @web.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"][1:])
        return answer(request, Refused(422, "INVALID", f"{where}: {problem['msg']}"))

    @web.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> Response:
        return answer(request, Refused(error.status_code, "HTTP", str(error.detail)))

    async def busy(request: Request, error: Exception) -> Response:
        return answer(request, Refused(503, "BUSY", "the database cannot be reached just now", retry_after=2))

    for kind in (PoolTimeout, TooManyRequests, psycopg.OperationalError):
        web.add_exception_handler(kind, busy)
