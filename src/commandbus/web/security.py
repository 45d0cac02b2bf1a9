"""The guard in front of every route: Host, Origin, who asks, the token of forms, the size of bodies, strict headers."""

import asyncio
import base64
import binascii
import logging
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from commandbus.web.passwords import Users
from commandbus.web.settings import is_loopback

if TYPE_CHECKING:
    from commandbus.web.site import Site

_log = logging.getLogger(__name__)

TOKEN_FIELD, TOKEN_HEADER = "csrf_token", "x-csrf-token"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_FORMS = frozenset({"application/x-www-form-urlencoded", "multipart/form-data"})
_PUBLIC = ("/sign-in", "/static/console/")
_TRIES = 2  # passwords that are tried at a time: each takes 16 MB and a core

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # with less, browsers send `Origin: null` with our own forms
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


class Refused(HTTPException):
    """A request that no route gets to see."""

    def __init__(self, status: int, title: str, text: str) -> None:
        self.title = title
        super().__init__(status, text)


class _BodyTooLargeError(HTTPException):
    """More came than a body may have, in whatever pieces; of a kind that FastAPI lets through while it reads one."""

    def __init__(self, limit: int) -> None:
        super().__init__(413, f"A request's body has {limit:,} bytes at most: send less, or raise max_body.")


class Guard:
    """Lets through what the settings of `site` allow; see the module. Routes find in `request.state`:

    `operator` (who asks, a name for the audit trail), `session` (None without a cookie of ours) and `csrf_checked`.
    """

    def __init__(self, app: ASGIApp, site: "Site") -> None:
        self._app = app
        self._site = site
        self._settings = site.settings
        self._tries = asyncio.Semaphore(_TRIES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or let the application do it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope = {**scope, "state": dict(scope.get("state", {}))}
        sender = _Sender(send)
        try:
            receive = await self._admit(scope, receive)
            await self._app(scope, receive, sender)
        except Refused as refusal:
            await self._refuse(scope, receive, sender, refusal)
        except _BodyTooLargeError as error:
            await self._refuse(scope, receive, sender, Refused(413, "Too large", error.detail))
        except Exception:
            if scope["type"] == "http" and not sender.has_begun:
                failed = Refused(500, "Something failed", "The log of the console says what. Try again.")
                await self._refuse(scope, receive, sender, failed)
            raise  # the server logs it

    async def _admit(self, scope: Scope, receive: Receive) -> Receive:
        """Fill the request's state and return where its body comes from. Raises Refused."""
        conn = HTTPConnection(scope)
        self._check_address(conn)
        is_call = scope["type"] == "http" and scope["method"] not in _SAFE
        _check_origin(conn, strictly=is_call or scope["type"] == "websocket")
        session = self._site.session(conn)
        state: MutableMapping[str, Any] = scope["state"]
        state.update(session=session, csrf_checked=False)
        may_use_cookie = True
        if is_call:
            receive = await self._bounded(conn, receive)
            token = conn.headers.get(TOKEN_HEADER)
            kind = conn.headers.get("content-type", "").partition(";")[0].strip().lower()
            if token is None and kind in _FORMS:
                body, receive = await _read(receive)
                token = dict(parse_qsl(body.decode("latin-1"))).get(TOKEN_FIELD, "") if kind.endswith("coded") else ""
            if token is not None:
                if session is None or not self._site.sessions.is_token(session, token):
                    raise Refused(
                        403, "This form is not valid any more", "Go back, reload the page, and send the form again."
                    )
                state["csrf_checked"] = True
            may_use_cookie = token is not None
        state["operator"] = await self._who(conn, session.user if session and may_use_cookie else None)
        if state["operator"] is None and not _is_public(scope):
            raise Refused(401, "Sign in first", "The console has no valid session or credentials in this request.")
        return receive

    def _check_address(self, conn: HTTPConnection) -> None:
        names = {_name(host) for host in conn.headers.getlist("host") or [""]}
        if not names <= {name.casefold() for name in self._settings.allowed_hosts}:
            raise Refused(
                400,
                "Unknown host",
                "The console is not known by this host name. Add it: --allowed-host NAME, or allowed_hosts.",
            )
        server = conn.scope.get("server")
        if self._settings.auth is None and server is not None and server[1] is not None and not is_loopback(server[0]):
            raise Refused(
                403,
                "Only on this machine",
                "Without users the console answers on loopback addresses only. Name some: --users FILE, or auth.",
            )

    async def _bounded(self, conn: HTTPConnection, receive: Receive) -> Receive:
        limit = self._settings.max_body
        announced = conn.headers.get("content-length", "0")
        if not (announced.isascii() and announced.isdigit()) or int(announced[:20]) > limit:
            raise _BodyTooLargeError(limit)
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _BodyTooLargeError(limit)
            return message

        return counted

    async def _who(self, conn: HTTPConnection, signed_in: str | None) -> str | None:
        """Return the operator's name: by the settings, by the session, or by the header Authorization."""
        auth = self._settings.auth
        if auth is None:
            return self._settings.operator
        if not isinstance(auth, Users):
            return auth(conn)
        if signed_in is not None and signed_in in auth:
            return signed_in
        given = _basic(conn.headers.get("authorization", ""))
        if given is not None and await self._is_right(auth, *given):
            return given[0]
        return None

    async def _is_right(self, users: Users, name: str, password: str) -> bool:
        async with self._tries:
            return await asyncio.to_thread(users.check, name, password)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, refusal: Refused) -> None:
        if scope["type"] == "websocket":
            await WebSocketClose(1008, refusal.title)(scope, receive, send)
            return
        request = Request(scope)
        wants_page = scope["method"] in _SAFE and "text/html" in request.headers.get("accept", "")
        if refusal.status_code == 401 and wants_page and isinstance(self._settings.auth, Users):
            there = quote(scope["path"] + ("?" + scope["query_string"].decode("latin-1")) * bool(scope["query_string"]))
            response: Response = RedirectResponse(f"{scope.get('root_path', '')}/sign-in?to={there}", 303)
        else:
            response = self._site.problem(request, refusal.status_code, refusal.title, refusal.detail)
            if refusal.status_code == 401 and "sec-fetch-mode" not in request.headers:  # a browser would ask by itself
                response.headers["www-authenticate"] = 'Basic realm="commandbus"'
        await response(scope, receive, send)


class _Sender:
    """Sends with the strict headers, unless the response has its own."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        elif message["type"] == "websocket.accept":
            self.has_begun = True
        await self._send(message)


def _name(host: str) -> str:
    """The name in a Host header, without its port."""
    return (host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]).casefold()


def _check_origin(conn: HTTPConnection, *, strictly: bool) -> None:
    """Raise Refused when a page of another origin sent this; `strictly` also by what the browser says of itself."""
    host = conn.headers["host"].casefold()
    is_foreign = any(_authority(origin) != host for origin in conn.headers.getlist("origin"))
    site = conn.headers.get("sec-fetch-site", "none")
    if is_foreign or (strictly and site not in ("same-origin", "none")):
        raise Refused(
            403,
            "From another site",
            "A page of another origin sent this request. Use the console's own; a proxy must pass the Host on.",
        )


def _authority(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.casefold()
    except ValueError:  # not even an address
        return None


def _is_public(scope: Scope) -> bool:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return scope["type"] == "http" and any(path == p or (p.endswith("/") and path.startswith(p)) for p in _PUBLIC)


def _basic(header: str) -> tuple[str, str] | None:
    scheme, _, given = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(given, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return (name, password) if colon else None


async def _read(receive: Receive) -> tuple[bytes, Receive]:
    """Read a whole body; returns it, and from where it can be read again."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            break
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            break
    body = b"".join(pieces)
    was_given = False

    async def again() -> Message:
        nonlocal was_given
        if was_given:
            return await receive()
        was_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return body, again
