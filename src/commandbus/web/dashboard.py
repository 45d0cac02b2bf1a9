"""The first page: what waits, what runs, who works, how fast, and the charts of the last quarter of an hour."""

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from commandbus._core.connection import Pool, mask_password
from commandbus.history import Point
from commandbus.web.live import HISTORY, STEP, totals
from commandbus.web.site import NavLink

if TYPE_CHECKING:
    from commandbus.web.console import Console

_RATES = ("completed", "failed", "retried", "parked")


def router(console: "Console") -> APIRouter:
    """Return the routes / (the page), /dashboard/now (its figures) and /dashboard/history.json (its charts)."""
    routes = APIRouter(include_in_schema=False)
    site, live = console.site, console.live
    site.add_nav(NavLink("Dashboard", "/", order=0))

    async def figures() -> dict[str, Any]:
        found = (await live.now()).status
        return {"status": found, "totals": totals(found)}

    @routes.get("/", name="dashboard")
    async def page(request: Request) -> Response:
        points = await live.points()
        return site.render(
            request,
            "dashboard.html",
            **await figures(),
            panels=await site.panels.of_dashboard(),
            database=shown_database(console.pool),
            minutes=HISTORY // 60,
            step=STEP,
            table_rows=list(_by_minute(points)),
        )

    @routes.get("/dashboard/now", name="dashboard_now")
    async def now(request: Request) -> Response:
        return site.render(request, "dashboard_now.html", **await figures())

    @routes.get("/dashboard/history.json", name="dashboard_history")
    async def lines() -> dict[str, list[float | None]]:
        return _lines(await live.points())

    return routes


def shown_database(pool: Pool) -> str:
    """Tell to which database a pool leads, without its password."""
    conninfo = pool.conninfo
    return mask_password(conninfo) if isinstance(conninfo, str) else "given by the application"


def _lines(points: tuple[Point, ...]) -> dict[str, list[float | None]]:
    """One list for each line of the charts: times in seconds since 1970, rates per second, durations in ms."""
    lines: dict[str, list[float | None]] = {"at": [point.at.timestamp() for point in points]}
    for name in _RATES:
        lines[name] = [round(getattr(point.rates, name), 3) for point in points]
    for name in ("ran", "waited"):
        for quantile in ("p50", "p95", "p99"):
            found = [getattr(point, name) for point in points]
            lines[f"{name}_{quantile}"] = [f and round(1_000 * getattr(f, quantile), 3) for f in found]
    return lines


def _by_minute(points: tuple[Point, ...]) -> Any:
    """The charts' figures as rows, newest first: when, and what was completed, failed, retried and parked a second."""
    size = 60 // STEP
    for start in range(len(points) - size, -1, -size):
        part = points[start : start + size]
        yield part[0].at, [sum(getattr(point.rates, name) for point in part) / size for name in _RATES]
