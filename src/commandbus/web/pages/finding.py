"""One field that finds a command, a process or a batch by its id."""

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from fastapi.responses import Response

from commandbus.errors import BatchNotFoundError, CommandNotFoundError
from commandbus.process.repository import ProcessRepository
from commandbus.web.pages.asking import read_id
from commandbus.web.pages.batches import path_of

if TYPE_CHECKING:
    from commandbus.web.console import Console


def router(console: "Console") -> APIRouter:
    """Return the route /find?id=, which leads to the page of what has the id."""
    routes = APIRouter(include_in_schema=False)
    site = console.site

    @routes.get("/find", name="find")
    async def find(request: Request) -> Response:
        try:
            subject = read_id(request.query_params.get("id", ""))
        except ValueError as error:
            return site.problem(request, 422, "Not understood", str(error))
        try:
            await console.bus.get_command(subject)
            return site.redirect(request, f"/commands/{subject}")
        except CommandNotFoundError:
            pass
        if await ProcessRepository(console.pool).get(subject) is not None:
            return site.redirect(request, f"/processes/{subject}")
        try:
            batch = await console.bus.get_batch(None, subject)
            return site.redirect(request, path_of(batch))
        except BatchNotFoundError:
            pass
        text = f"No command, process or batch has the id {subject}; it may be of another database, or pruned."
        return site.problem(request, 404, "Not found", text)

    return routes
