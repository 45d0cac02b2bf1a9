"""Batches of processes and of commands: the lists, and the page of one with how far it is and its members."""

from typing import TYPE_CHECKING

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from commandbus.errors import InvalidOperationError
from commandbus.models import BatchMetadata, BatchStatus, BatchType, CommandMetadata, CommandStatus, Page
from commandbus.process.models import ProcessMetadata, ProcessStatus
from commandbus.process.repository import ProcessRepository
from commandbus.web.pages import command_line
from commandbus.web.pages.asking import Asked, find_page
from commandbus.web.pages.common import Confirmation, ask, id_of, who
from commandbus.web.site import NavLink

if TYPE_CHECKING:
    from commandbus.web.console import Console


def router(console: "Console") -> APIRouter:
    """Return the routes /process-batches and /batches (of commands), of one, and of cancelling it."""
    routes = APIRouter(include_in_schema=False)
    site = console.site
    site.add_nav(NavLink("Process batches", "/process-batches", order=20), NavLink("Batches", "/batches", order=25))

    @routes.get("/process-batches", name="process_batches")
    async def process_batches(request: Request) -> Response:
        return await _listing(console, request, BatchType.PROCESS, "/process-batches")

    @routes.get("/batches", name="batches")
    async def command_batches(request: Request) -> Response:
        return await _listing(console, request, BatchType.COMMAND, "/batches")

    @routes.get("/process-batches/{batch_id}", name="process_batch")
    async def process_batch(request: Request, batch_id: str) -> Response:
        return await _one(console, request, batch_id, BatchType.PROCESS)

    @routes.get("/batches/{batch_id}", name="batch")
    async def command_batch(request: Request, batch_id: str) -> Response:
        return await _one(console, request, batch_id, BatchType.COMMAND)

    @routes.get("/batches/{batch_id}/cancel", name="cancel_batch")
    async def confirm_cancel(request: Request, batch_id: str) -> Response:
        batch = await console.bus.get_batch(None, id_of(batch_id, "batch"))
        return ask(console, request, _question(batch, _refused(console, batch)))

    @routes.post("/batches/{batch_id}/cancel", dependencies=[Depends(site.csrf)])
    async def cancel(request: Request, batch_id: str) -> Response:
        batch = await console.bus.get_batch(None, id_of(batch_id, "batch"))
        by = who(console, request, await request.form())
        if (refused := _refused(console, batch)) is not None:
            return ask(console, request, _question(batch, refused))
        try:
            done = await console.bus.cancel_batch(
                batch.domain,
                batch.batch_id,
                operator=by.operator,
                reason=by.reason,
                processes=console.app.processes(console.pool),
            )
        except InvalidOperationError as error:
            return ask(console, request, _question(batch, str(error)))
        note = f"Cancelled {done.canceled:,}; {done.in_flight:,} in flight end by themselves."
        return site.redirect(request, path_of(batch), note)

    return routes


def path_of(batch: BatchMetadata) -> str:
    """Return the path of a batch's page."""
    folder = "process-batches" if batch.batch_type is BatchType.PROCESS else "batches"
    return f"/{folder}/{batch.batch_id}"


async def _listing(console: "Console", request: Request, batch_type: BatchType, path: str) -> Response:
    asked = Asked(request.query_params)
    domain = asked.name("domain", "Domain", console.app.domains(console.pool))
    status = asked.choice("status", "Status", BatchStatus)
    page = await find_page(
        asked, lambda cursor: console.bus.list_batches(domain, batch_type, status, asked.limit, cursor)
    )
    return console.site.render(
        request,
        "batches.html",
        status_code=422 if asked.errors else 200,
        asked=asked,
        page=page,
        path=path,
        is_of_processes=batch_type is BatchType.PROCESS,
        line=command_line.batch_list(asked.query, batch_type),
    )


async def _one(console: "Console", request: Request, text: str, batch_type: BatchType) -> Response:
    batch = await console.bus.get_batch(None, id_of(text, "batch"))
    if batch.batch_type is not batch_type:
        return console.site.redirect(request, path_of(batch))
    asked = Asked(request.query_params)
    page: Page[ProcessMetadata] | Page[CommandMetadata]
    if batch_type is BatchType.PROCESS:
        process_status = asked.choice("status", "Status", ProcessStatus)
        repository = ProcessRepository(console.pool)
        page = await find_page(
            asked,
            lambda cursor: repository.list_processes(batch.batch_id, process_status, None, asked.limit, cursor),
        )
    else:
        status = asked.choice("status", "Status", CommandStatus)
        page = await find_page(
            asked,
            lambda cursor: console.bus.list_batch_commands(batch.batch_id, status, asked.limit, cursor),
        )
    ended = batch.completed_count + batch.failed_count + batch.canceled_count
    return console.site.render(
        request,
        "batch.html",
        status_code=422 if asked.errors else 200,
        batch=batch,
        asked=asked,
        page=page,
        path=path_of(batch),
        ended=ended,
        seconds=((batch.completed_at or await console.bus.now()) - batch.created_at).total_seconds(),
        is_of_processes=batch_type is BatchType.PROCESS,
        is_refreshed=request.query_params.get("refresh") != "off" and not batch.status.is_final,
        line=command_line.line("batch", "show", batch.batch_id),
    )


def _refused(console: "Console", batch: BatchMetadata) -> str | None:
    """Why the batch is not cancelled from its page, None when it may be."""
    if batch.status.is_final:
        return f"The batch is {batch.status}: it has ended already."
    left = batch.total_count - batch.completed_count - batch.failed_count - batch.canceled_count
    most = console.settings.max_bulk
    return (
        f"{left:,} members have not ended; at most {most:,} at once: use the command line below."
        if left > most
        else None
    )


def _question(batch: BatchMetadata, refused: str | None = None) -> Confirmation:
    facts = [f"Batch {batch.name or batch.batch_id}: {batch.completed_count:,} of {batch.total_count:,} completed."]
    if batch.batch_type is BatchType.PROCESS:
        facts.append(
            "Each open process is cancelled, and undoes the steps that it has completed; a step that runs ends first."
        )
    else:
        facts.append(
            "Commands that no worker has claimed are cancelled; one that runs ends by itself, a parked one stays."
        )
    facts.append("Nothing more can be started in it. This cannot be taken back.")
    return Confirmation(
        question="Cancel what has not run of this batch?",
        facts=facts,
        action=f"/batches/{batch.batch_id}/cancel",
        back=path_of(batch),
        button="Cancel the batch",
        kind="danger",
        line=command_line.line("batch", "cancel", batch.batch_id),
        refused=refused,
    )
