"""Who asks: a bearer token, or the cookie that the login page sets."""

import hmac
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from .errors import Refused
from .settings import Settings

COOKIE = "report_token"
SAFE = ("GET", "HEAD", "OPTIONS")


def user_of(settings: Settings, token: str) -> str | None:
    """Return the user who has this token."""
    for known, name in settings.users.items():
        if hmac.compare_digest(known.encode(), token.encode()):
            return name
    return None


def current_user(request: Request) -> str:
    """The user of a request. Raises Refused, 401; 403 for a cookie that another site's page would use."""
    settings: Settings = request.app.state.settings
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        token = request.cookies.get(COOKIE, "")
        if request.method not in SAFE and not is_same_origin(request):
            raise Refused(403, "FOREIGN_ORIGIN", "the request comes from another site's page")
    user = user_of(settings, token)
    if user is None:
        raise Refused(401, "NO_USER", "send a token of yours: Authorization: Bearer TOKEN")
    return user


def is_same_origin(connection: HTTPConnection) -> bool:
    """Whether a page of ours asks; what is no browser sends no origin."""
    origin = connection.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == connection.headers.get("host")


CurrentUser = Annotated[str, Depends(current_user)]
