"""Processes: the list with its filters, and the page of one with its steps on a timeline; cancelling it."""

from typing import TYPE_CHECKING

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from commandbus.errors import InvalidOperationError, ProcessNotFoundError
from commandbus.process.models import ProcessMetadata, ProcessStatus
from commandbus.process.repository import ProcessRepository
from commandbus.web.pages import advice, command_line
from commandbus.web.pages.asking import Asked, find_page
from commandbus.web.pages.common import Confirmation, ask, id_of, is_cut, who
from commandbus.web.site import NavLink
from commandbus.web.timeline import draw

if TYPE_CHECKING:
    from commandbus.web.console import Console

_DRAWN = 200  # commands of one process on its page, the newest ones


def router(console: "Console") -> APIRouter:
    """Return the routes /processes, /processes/{id} and /processes/{id}/cancel."""
    routes = APIRouter(include_in_schema=False)
    site, processes = console.site, ProcessRepository(console.pool)
    managers = {manager.process_type: manager for manager in console.app.processes(console.pool)}
    site.add_nav(NavLink("Processes", "/processes", order=30))

    async def read(process_id: str) -> ProcessMetadata:
        found = id_of(process_id, "process")
        process = await processes.get(found)
        if process is None:
            raise ProcessNotFoundError(found)
        return process

    @routes.get("/processes", name="processes")
    async def listing(request: Request) -> Response:
        asked = Asked(request.query_params)
        domain = asked.name("domain", "Domain", console.app.domains(console.pool))
        process_type = asked.name("process_type", "Process type", managers)
        status = asked.choice("status", "Status", ProcessStatus)
        batch_id = asked.id("batch_id", "Batch")
        page = await find_page(
            asked,
            lambda cursor: processes.list_processes(
                batch_id, status, process_type, asked.limit, cursor, domain=domain, newest_first=batch_id is None
            ),
        )
        return site.render(
            request,
            "processes.html",
            status_code=422 if asked.errors else 200,
            asked=asked,
            page=page,
            path="/processes",
        )

    @routes.get("/processes/{process_id}", name="process")
    async def one(request: Request, process_id: str) -> Response:
        process = await read(process_id)
        trail = await processes.get_audit_trail(process.process_id)
        drawn = trail[-_DRAWN:]
        events = await console.bus.get_audit_trails([entry.command_id for entry in drawn])
        steps = [
            (entry.command_id, _label(entry.step, entry.visit), events.get(entry.command_id, [])) for entry in drawn
        ]
        return site.render(
            request,
            "process.html",
            process=process,
            trail=drawn,
            older=len(trail) - len(drawn),
            events=events,
            timeline=draw(steps, await console.bus.now(), cut=is_cut(request)),
            advice=advice.for_process(process, trail),
            panels=await site.panels.of_process(process, drawn),
            is_managed=process.process_type in managers,
            line=command_line.line("audit", process.process_id),
        )

    def question(process: ProcessMetadata, refused: str | None = None) -> Confirmation:
        return Confirmation(
            question=f"Cancel this {process.process_type} process?",
            facts=[
                f"Process {process.process_id}, {process.status}, at step {process.current_step or 'none'}.",
                "A command that nobody has claimed is cancelled; one that runs ends first.",
                "Then the steps that were completed are undone, the last one first. This cannot be taken back.",
            ],
            action=f"/processes/{process.process_id}/cancel",
            back=f"/processes/{process.process_id}",
            button="Cancel the process",
            kind="danger",
            refused=refused,
        )

    @routes.get("/processes/{process_id}/cancel", name="cancel_process")
    async def confirm_cancel(request: Request, process_id: str) -> Response:
        process = await read(process_id)
        refused = None
        if process.status.is_terminal:
            refused = f"The process is {process.status}: it has ended already."
        elif process.process_type not in managers:
            refused = f"The application of this console has no manager for {process.process_type}."
        return ask(console, request, question(process, refused))

    @routes.post("/processes/{process_id}/cancel", dependencies=[Depends(site.csrf)])
    async def cancel(request: Request, process_id: str) -> Response:
        process = await read(process_id)
        manager = managers.get(process.process_type)
        if manager is None:
            return await confirm_cancel(request, process_id)
        by = who(console, request, await request.form())
        try:
            is_done = await manager.cancel_process(process.process_id, operator=by.operator, reason=by.reason)
        except InvalidOperationError as error:
            return ask(console, request, question(process, str(error)))
        note = "Cancelled." if is_done else "It is cancelled as soon as the command in flight has ended."
        return site.redirect(request, f"/processes/{process.process_id}", note)

    return routes


def _label(step: str, visit: int) -> str:
    return step if visit == 1 else f"{step} ({visit})"
