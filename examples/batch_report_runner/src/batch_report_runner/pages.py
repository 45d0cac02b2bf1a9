"""The pages; what is on them comes from the API."""

from pathlib import Path
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.templating import Jinja2Templates

from .access import COOKIE, CurrentUser, is_same_origin, user_of
from .errors import Refused

router = APIRouter(include_in_schema=False)
FOLDER = Path(__file__).parent
_templates = Jinja2Templates(FOLDER / "templates")


def page(request: Request, name: str, status: int = 200, **values: object) -> HTMLResponse:
    """Render one page."""
    return _templates.TemplateResponse(request, name, values, status_code=status)


@router.get("/login")
async def login_page(request: Request) -> HTMLResponse:
    """Ask for the token."""
    return page(request, "login.html")


@router.post("/login")
async def login(request: Request, token: Annotated[str, Form(max_length=500)] = "") -> Response:
    """Take the token into a cookie that no script and no other site's page can use."""
    if not is_same_origin(request):
        raise Refused(403, "FOREIGN_ORIGIN", "the request comes from another site's page")
    if user_of(request.app.state.settings, token) is None:
        return page(request, "login.html", 401, wrong=True)
    response = RedirectResponse("/", 303)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=secure, max_age=86_400)
    return response


@router.post("/logout")
async def logout() -> Response:
    """Forget the token."""
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE)
    return response


@router.get("/")
async def leads(request: Request, user: CurrentUser) -> HTMLResponse:
    """Choose leads, preview, start."""
    return page(request, "leads.html", user=user, versions=request.app.state.batches.rates.versions())


@router.get("/batches")
async def batches(request: Request, user: CurrentUser) -> HTMLResponse:
    """List the user's batches."""
    return page(request, "batches.html", user=user)


@router.get("/batches/{batch_id}")
async def batch(request: Request, user: CurrentUser, batch_id: UUID) -> HTMLResponse:
    """Watch one batch, open its reports."""
    await request.app.state.batches.get(user, batch_id)
    return page(request, "batch.html", user=user, batch_id=batch_id)
