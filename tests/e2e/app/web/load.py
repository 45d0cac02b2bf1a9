"""Send Command with its load test generation, and the metrics of a load test."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, Response
from pydantic import Field, field_validator
from uuid_utils.compat import uuid7

from commandbus import stop_workers
from commandbus.web import Site
from commandbus.web.live import HISTORY, STEP
from pytest_commandbus.behavior import StoredBehavior
from pytest_commandbus.chaos import CommandBehavior
from tests.e2e.app.api.schemas import BulkRequest, Given
from tests.e2e.app.bulk import send_bulk
from tests.e2e.app.handlers.testing import COMMAND_TYPE, DOMAIN
from tests.e2e.app.services import Services
from tests.e2e.app.web import forms

SEND, METRICS = "/send-command", "/load-test"
MIXES = {
    "success": ("All succeed", {"success": 100}),
    "mixed": (
        "Mixed: 90 % succeed, 5 % after two failures, 5 % fail for good",
        {"success": 90, "fail_transient_then_succeed": 5, "fail_permanent": 5},
    ),
    "custom": ("Custom", {}),
}
PARTS = (
    ("success", "Succeed"),
    ("fail_transient_then_succeed", "Succeed after two transient failures"),
    ("fail_permanent", "Fail for good"),
)
_DEFAULTS = {"count": "1000", "delay_ms": "0", "mix": "success", "success": "100", "data": "{}"} | {
    name: "0" for name, _ in PARTS[1:]
}


class SendRequest(Given):
    """One test command: its data and its behavior."""

    data: dict[str, Any] = Field(default_factory=dict)
    behavior: CommandBehavior = CommandBehavior()

    @field_validator("data", mode="before")
    @classmethod
    def _is_object(cls, value: object) -> object:
        if not isinstance(value, dict):
            raise ValueError('this is no JSON object: write {"name": "value"}, or {}')
        return value


def router(services: Services, site: Site) -> APIRouter:
    """Return the pages."""
    pages = APIRouter()
    is_ours = [Depends(site.csrf)]

    def show(request: Request, values: Mapping[str, str], errors: Mapping[str, str], status: int = 200) -> HTMLResponse:
        return site.render(
            request,
            "send_command.html",
            status_code=status,
            values=values,
            errors=errors,
            inputs=forms.INPUTS,
            mixes={name: text for name, (text, _) in MIXES.items()},
            parts=PARTS,
        )

    @pages.get(SEND, name="send_command")
    async def form(request: Request) -> Response:
        return show(request, _DEFAULTS | forms.values("behavior.", None), {})

    @pages.post(SEND, dependencies=is_ours)
    async def send(request: Request) -> Response:
        values = await text_fields(request)
        behavior = forms.behavior_of(values, "behavior.")
        given = {"data": forms.parsed(values.get("data", "") or "{}"), "behavior": behavior}
        checked = forms.check(SendRequest, given)
        if checked.errors:
            return show(request, _shown(values), checked.errors, 422)
        command_id = await _send(services, checked.request)
        return site.redirect(request, f"/commands/{command_id}", "The command is sent.")

    @pages.post(f"{SEND}/load-test", dependencies=is_ours)
    async def send_many(request: Request) -> Response:
        values = await text_fields(request)
        _, distribution = MIXES.get(values.get("mix", ""), MIXES["custom"])
        data = {
            "count": forms.number(values.get("count", "")),
            "delay_ms": forms.number(values.get("delay_ms", "") or "0"),
            "behavior_distribution": distribution or {name: forms.number(values.get(name) or "0") for name, _ in PARTS},
        }
        checked = forms.check(BulkRequest, data)
        if checked.errors:
            return show(request, _shown(values), checked.errors, 422)
        asked: BulkRequest = checked.request
        behaviors = asked.behavior_distribution.parts().behaviors(asked.count, asked.delay_ms)
        sent = await send_bulk(services.pool, asked.count, behaviors)
        return site.redirect(request, METRICS, f"{sent.created:,} commands were sent in {sent.queue_seconds:.2f} s.")

    @pages.get(METRICS, name="load_test")
    async def metrics(request: Request, batch_id: UUID | None = None) -> Response:
        found = await services.stats.metrics(batch_id)
        if request.headers.get("hx-request"):
            return site.render(request, "load_test_now.html", **found)
        return site.render(request, "load_test.html", minutes=HISTORY // 60, step=STEP, send=SEND, **found)

    @pages.post(f"{METRICS}/stop-workers", dependencies=is_ours)
    async def stop(request: Request) -> Response:
        asked = await stop_workers(services.pool)
        text = f"{len(asked)} workers were asked to stop: each ends what it has begun." if asked else "No worker runs."
        return site.redirect(request, METRICS, text)

    return pages


async def text_fields(request: Request) -> dict[str, str]:
    """Return the fields of a form that are text, the first value of each."""
    found: dict[str, str] = {}
    for name, value in (await request.form()).multi_items():
        if isinstance(value, str):
            found.setdefault(name, value)
    return found


def _shown(values: Mapping[str, str]) -> dict[str, str]:
    """The form as it was sent; what the other form on the page has is as it was at first."""
    return _DEFAULTS | forms.values("behavior.", None) | dict(values)


async def _send(services: Services, asked: SendRequest) -> UUID:
    """Send one test command, with its behavior in the same transaction."""
    command_id = uuid7()
    async with services.pool.connection() as conn, conn.transaction():
        await services.bus.send(
            domain=DOMAIN, command_type=COMMAND_TYPE, command_id=command_id, data=asked.data, conn=conn
        )
        if asked.behavior != CommandBehavior():
            await services.behaviors.add([StoredBehavior(command_id, asked.behavior, asked.data)], conn=conn)
    return command_id
