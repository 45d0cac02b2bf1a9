"""The JSON API."""

import csv
import datetime
import io
import time
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt, field_validator

from . import sql, tokens
from .access import CurrentUser
from .batches import Batches, Preview, owned
from .cost import MOST_LEADS, rounded
from .errors import Refused
from .handlers import report_path
from .rows import Row, fetch, first
from .settings import Settings
from .watching import ProgressSource

router = APIRouter(prefix="/api")
LeadId = Annotated[StrictInt, Field(ge=1, le=2**63 - 1)]
LeadStatus = Literal["new", "contacted", "qualified", "lost"]
_OF_BATCH = ("quoted_cost", "actual_cost", "template_version", "error", "created_at", "ended_at")
_DANGEROUS = ("=", "+", "-", "@", "\t", "\r")


class Selection(BaseModel):
    """Leads, and the template of their reports."""

    model_config = ConfigDict(extra="forbid")
    lead_ids: Annotated[list[LeadId], Field(min_length=1, max_length=MOST_LEADS)]
    template_version: Annotated[str, Field(min_length=1, max_length=40)] = "v1"

    @field_validator("lead_ids")
    @classmethod
    def _once_each(cls, lead_ids: list[int]) -> list[int]:
        if len(set(lead_ids)) < len(lead_ids):
            raise ValueError("a lead is named twice")
        return lead_ids


class Start(Selection):
    """The same, with the cost that the user has seen."""

    accepted_cost: Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=2)]


class LeadFilter(BaseModel):
    """Which leads; a filter that is empty lets everything through."""

    model_config = ConfigDict(populate_by_name=True)
    status: LeadStatus | Literal[""] | None = None
    tier: Literal["A", "B", "C", ""] | None = None
    since: datetime.date | Literal[""] | None = Field(None, alias="from")
    until: datetime.date | Literal[""] | None = Field(None, alias="to")

    def values(self) -> dict[str, Any]:
        """As the statements want them."""
        return {name: value or None for name, value in self.model_dump(by_alias=True).items() if name in _FILTERS}


_FILTERS = ("status", "tier", "from", "to")


class LeadQuery(LeadFilter):
    """A page of them."""

    cursor: Annotated[str, Field(pattern=r"^[0-9]{0,18}$")] = ""
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


@router.get("/leads")
async def leads(request: Request, user: CurrentUser, query: Annotated[LeadQuery, Query()]) -> Row:
    """List leads, a page of them, and how many match in all."""
    async with request.app.state.pool.connection() as conn:
        values = query.values()
        found = await fetch(conn, sql.LEADS, **values, after=int(query.cursor or 0), limit=query.limit + 1)
        total = await first(conn, sql.COUNT_LEADS, **values) or {}
    page = found[: query.limit]
    return {
        "items": page,
        "total": total["total"],
        "next_cursor": str(page[-1]["lead_id"]) if len(found) > query.limit else None,
    }


@router.get("/templates")
async def templates(request: Request, user: CurrentUser) -> list[str]:
    """List the template versions."""
    return _batches(request).rates.versions()


@router.post("/batch/preview")
async def preview(request: Request, user: CurrentUser, asked: Selection) -> Response:
    """Quote a batch."""
    request.app.state.preview_limit.take(user)
    return _json(_described(await _batches(request).preview(user, asked.lead_ids, asked.template_version)))


@router.post("/batch/start", status_code=202)
async def start(request: Request, user: CurrentUser, asked: Start) -> Row:
    """Start a batch."""
    request.app.state.start_limit.take(user)
    batch_id = await _batches(request).start(user, asked.lead_ids, asked.template_version, asked.accepted_cost)
    return {"batch_id": str(batch_id), "websocket_url": websocket_url(request, batch_id, user)}


@router.get("/batches")
async def batches(request: Request, user: CurrentUser) -> list[Row]:
    """List the user's batches, the newest first."""
    async with request.app.state.pool.connection() as conn:
        return [_money(row) for row in await fetch(conn, sql.BATCHES, owner=user)]


@router.get("/batch/{batch_id}/status")
async def status(request: Request, user: CurrentUser, batch_id: UUID) -> Response:
    """Tell a batch's status, progress and latest errors."""
    source: ProgressSource = request.app.state.source
    look = await source.recent(batch_id)
    batch = owned(look.batch, user, batch_id)
    return _json(
        {
            **look.told,
            **{name: batch[name] for name in _OF_BATCH},
            "websocket_url": websocket_url(request, batch_id, user),
            "error_report_url": f"/api/batch/{batch_id}/errors.csv",
        }
    )


@router.post("/batch/{batch_id}/cancel", status_code=202)
async def cancel(request: Request, user: CurrentUser, batch_id: UUID) -> Row:
    """Cancel what has not run."""
    await _batches(request).cancel(user, batch_id)
    return {"batch_id": str(batch_id), "cancelling": True}


@router.get("/batch/{batch_id}/leads")
async def batch_leads(
    request: Request,
    user: CurrentUser,
    batch_id: UUID,
    status: Literal["PENDING", "DONE", "FAILED", "CANCELLED", ""] = "",
    cursor: Annotated[str, Query(pattern=r"^[0-9]{0,18}$")] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Row:
    """List a batch's leads in their order, those that are done with their report."""
    await _batches(request).get(user, batch_id)
    async with request.app.state.pool.connection() as conn:
        after = int(cursor) if cursor else -1
        values = {"batch_id": batch_id, "status": status or None, "after": after}
        found = await fetch(conn, sql.BATCH_LEADS, **values, limit=limit + 1)
    page = found[:limit]
    for row in page:
        done = row["bytes"] is not None
        row["report_url"] = f"/api/batch/{batch_id}/reports/{row['lead_id']}.pdf" if done else None
    return {"items": page, "next_cursor": str(page[-1]["ordinal"]) if len(found) > limit else None}


@router.get("/batch/{batch_id}/history")
async def history(request: Request, user: CurrentUser, batch_id: UUID) -> list[Row]:
    """Tell how a batch went on, a sample a second."""
    await _batches(request).get(user, batch_id)
    async with request.app.state.pool.connection() as conn:
        return await fetch(conn, sql.PROGRESS, batch_id=batch_id)


@router.get("/batch/{batch_id}/errors.csv")
async def errors_csv(request: Request, user: CurrentUser, batch_id: UUID) -> Response:
    """Download what failed, and why."""
    await _batches(request).get(user, batch_id)
    async with request.app.state.pool.connection() as conn:
        rows = await fetch(conn, sql.ALL_ERRORS, batch_id=batch_id)
    return Response(
        error_report(rows),
        media_type="text/csv; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="errors-{batch_id}.csv"'},
    )


@router.get("/batch/{batch_id}/reports/{lead_id}.pdf")
async def report(request: Request, user: CurrentUser, batch_id: UUID, lead_id: int) -> FileResponse:
    """Open one lead's report."""
    await _batches(request).get(user, batch_id)
    async with request.app.state.pool.connection() as conn:
        made = await first(conn, sql.DOCUMENT, batch_id=batch_id, lead_id=lead_id)
    settings: Settings = request.app.state.settings
    path = report_path(settings.data / "reports", batch_id, lead_id)
    if made is None or not path.is_file():
        raise Refused(404, "NO_SUCH_REPORT", f"there is no report on lead {lead_id} in this batch")
    headers = {"content-disposition": f'inline; filename="lead-{lead_id}.pdf"'}
    return FileResponse(path, media_type="application/pdf", headers=headers)


def error_report(rows: list[Row]) -> str:
    """Write a table of what failed. Pure. What a spreadsheet would take for a formula is made text."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["lead_id", "name", "status", "attempts", "error_code", "error_message"])
    for row in rows:
        cells = [str("" if value is None else value) for value in row.values()]
        writer.writerow(["'" + cell if cell.startswith(_DANGEROUS) else cell for cell in cells])
    return out.getvalue()


def websocket_url(request: Request, batch_id: UUID, user: str) -> str:
    """Where a batch's progress is told: wss behind a proxy that ends TLS."""
    settings: Settings = request.app.state.settings
    token = tokens.issue(settings.secret, batch_id, user, time.time() + settings.token_lifetime)
    scheme = "wss" if request.url.scheme == "https" else "ws"
    return f"{scheme}://{request.url.netloc}/api/batch/{batch_id}/progress?token={token}"


def _batches(request: Request) -> Batches:
    found: Batches = request.app.state.batches
    return found


def _json(value: Row) -> Response:
    """Answer, without a look by FastAPI at each part of it; money is text."""
    return Response(orjson.dumps(value, default=str), media_type="application/json")


def _money(row: Row) -> Row:
    return {name: str(value) if isinstance(value, Decimal) else value for name, value in row.items()}


def _described(found: Preview) -> Row:
    estimate = found.quote
    return {
        "lead_count": estimate.count,
        "template_version": found.template_version,
        "currency": estimate.currency,
        "total_cost": str(estimate.total),
        "average_cost": str(estimate.average),
        "cost_low": str(estimate.low),
        "cost_high": str(estimate.high),
        "discount_pct": str(estimate.discount_pct),
        "breakdown": [
            {"provider": name or "not known yet", "leads": count, "cost": str(cost)}
            for name, (count, cost) in estimate.breakdown.items()
        ],
        "duration_seconds": found.seconds,
        "budget": str(found.budget),
        "spent_today": str(rounded(found.spent)),
        "warning": "the daily budget would be exceeded" if found.exceeds_budget else None,
        "can_start": found.is_on and not found.exceeds_budget,
    }
