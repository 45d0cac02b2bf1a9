"""Signing in and out, for consoles that have users."""

import asyncio
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import RedirectResponse, Response

from commandbus.web.passwords import Users
from commandbus.web.site import path_for

if TYPE_CHECKING:
    from commandbus.web.console import Console

_TRIES = 2  # passwords that are tried at a time: each takes 16 MB and a core


def router(console: "Console") -> APIRouter:
    """Return the routes /sign-in and /sign-out."""
    site, users = console.site, console.settings.auth
    routes = APIRouter(include_in_schema=False, dependencies=[Depends(site.csrf)])
    pages = APIRouter(include_in_schema=False)
    tries = asyncio.Semaphore(_TRIES)

    @pages.get("/sign-in", name="sign_in")
    async def show(request: Request, to: str = "") -> Response:
        return site.render(request, "sign_in.html", to=to, name="", error=None)

    @routes.post("/sign-in")
    async def sign_in(
        request: Request,
        name: Annotated[str, Form(max_length=200)] = "",
        password: Annotated[str, Form(max_length=1_000)] = "",
        to: Annotated[str, Form(max_length=4_000)] = "",
    ) -> Response:
        async with tries:
            is_right = isinstance(users, Users) and await asyncio.to_thread(users.check, name, password)
        if not is_right:
            error = "Name or password is wrong."
            return site.render(request, "sign_in.html", status_code=403, to=to, name=name, error=error)
        response = RedirectResponse(_own(to, path_for(request, "/")), 303)
        site.remember(request, response, site.sessions.new(name))
        return response

    @routes.post("/sign-out", name="sign_out")
    async def sign_out(request: Request) -> Response:
        response = RedirectResponse(path_for(request, "/sign-in"), 303)
        site.forget(request, response)
        return response

    routes.include_router(pages)
    return routes


def _own(path: str, home: str) -> str:
    """Return `path` if it leads into the console, else its first page: never to another host."""
    is_ours = path.startswith(home) and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if is_ours else home
