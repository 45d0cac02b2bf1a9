"""What all pages share: templates, navigation, the session and its token, notes after an action."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.requests import HTTPConnection

from commandbus.web import shown
from commandbus.web.panels import Panels
from commandbus.web.passwords import Users
from commandbus.web.security import TOKEN_FIELD, TOKEN_HEADER, Refused
from commandbus.web.sessions import Session, Sessions, Signer
from commandbus.web.settings import ConsoleSettings

_LONGEST_NOTE = 500
_NOTE = "commandbus_note"


@dataclass(frozen=True, slots=True)
class NavLink:
    """A link in the navigation: its path within the console, and where it stands (smaller is earlier)."""

    label: str
    path: str
    order: int = 100


class Site:
    """The frame of the pages. An application adds links and folders of templates to it; these come first."""

    def __init__(self, settings: ConsoleSettings) -> None:
        self.settings = settings
        self.signer = Signer(settings.secret)
        self.sessions = Sessions(self.signer, settings.session_hours)
        self.panels = Panels()
        self._links: list[NavLink] = []
        self._loaders: list[jinja2.BaseLoader] = [jinja2.PackageLoader("commandbus.web")]
        self.templates = jinja2.Environment(
            loader=jinja2.FunctionLoader(self._find),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.filters.update(shown.FILTERS)
        self.templates.globals.update(
            title=settings.title, with_query=with_query, has_users=isinstance(settings.auth, Users)
        )

    def add_nav(self, *links: NavLink) -> None:
        """Add links to the navigation."""
        self._links = sorted([*self._links, *links], key=lambda link: link.order)

    def add_templates(self, source: jinja2.BaseLoader | Path | str) -> None:
        """Look for templates in this folder, or by this loader, before all that were added earlier."""
        loader = source if isinstance(source, jinja2.BaseLoader) else jinja2.FileSystemLoader(source)
        self._loaders.insert(0, loader)

    def render(self, request: Request, template: str, /, *, status_code: int = 200, **context: Any) -> HTMLResponse:
        """Return a page, and give its browser a session if it has none, since the page's forms need its token."""
        session = self.session(request)
        is_new = session is None
        session = session or self.sessions.new()
        note = self.signer.read("note", request.cookies.get(_NOTE))
        text = self.templates.get_template(template).render(
            request=request,
            nav=self._nav(request),
            operator=self.operator(request),
            csrf_token=self.sessions.token(session),
            token_field=TOKEN_FIELD,
            note=note,
            url_for=lambda route, /, **params: url_for(request, route, **params),
            path_for=lambda path: path_for(request, path),
            **context,
        )
        response = HTMLResponse(text, status_code)
        if is_new:
            self.remember(request, response, session)
        if note is not None:
            response.delete_cookie(_NOTE, path=path_for(request, "/"))
        return response

    def redirect(self, request: Request, path: str, note: str | None = None, *, is_error: bool = False) -> Response:
        """Send the browser to a path of the console after a form, where it shows the note once."""
        response = RedirectResponse(path_for(request, path), 303)
        if note is not None:
            value = self.signer.sign("note", {"text": note[:_LONGEST_NOTE], "is_error": is_error})
            response.set_cookie(_NOTE, value, max_age=60, **self._cookie(request))
        return response

    def problem(self, request: Request, status: int, title: str, text: str) -> Response:
        """Return an error as a page to who reads pages, as JSON `{"detail": …}` to others."""
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse({"detail": f"{title}: {text}"}, status)
        return self.render(request, "problem.html", status_code=status, status=status, problem=title, text=text)

    async def csrf(self, request: Request) -> None:
        """FastAPI dependency of a route that takes a form: refuses one without its session's token."""
        if getattr(request.state, "csrf_checked", False):
            return
        session = self.session(request)
        token = request.headers.get(TOKEN_HEADER) or (await request.form()).get(TOKEN_FIELD)
        if session is None or not isinstance(token, str) or not self.sessions.is_token(session, token):
            raise Refused(403, "This form is not valid any more", "Go back, reload the page, and send the form again.")

    def operator(self, request: HTTPConnection) -> str | None:
        """Who asks: the name for the audit trail; None for a request that nobody had to sign in for."""
        return getattr(request.state, "operator", None)

    def session(self, conn: HTTPConnection) -> Session | None:
        """Return the session that a request's cookie names."""
        return self.sessions.read(conn.cookies.get(_cookie_name(conn)))

    def remember(self, request: Request, response: Response, session: Session) -> None:
        """Give the browser this session."""
        text = self.sessions.text(session)
        response.set_cookie(_cookie_name(request), text, max_age=self.sessions.seconds, **self._cookie(request))

    def forget(self, request: Request, response: Response) -> None:
        """Take the browser's session away."""
        response.delete_cookie(_cookie_name(request), path=path_for(request, "/"))

    def _cookie(self, request: Request) -> dict[str, Any]:
        path = path_for(request, "/")
        return {"path": path, "httponly": True, "samesite": "strict", "secure": self.settings.secure_cookies}

    def _nav(self, request: Request) -> Iterable[tuple[NavLink, str, bool]]:
        """The links with their addresses, and whether the request is for a page below each."""
        here = request.url.path
        for link in self._links:
            path = path_for(request, link.path)
            is_here = here == path if link.path == "/" else here == path or here.startswith(f"{path}/")
            yield link, path, is_here

    def _find(self, name: str) -> tuple[str, str | None, Any]:
        for loader in self._loaders:
            try:
                return loader.get_source(self.templates, name)
            except jinja2.TemplateNotFound:
                continue
        raise jinja2.TemplateNotFound(name)


def _cookie_name(conn: HTTPConnection) -> str:
    """Another name for each port: browsers send a host's cookies to all of its ports."""
    port = conn.headers.get("host", "").rpartition(":")[2]
    return f"commandbus_{port}" if port.isascii() and port.isdigit() else "commandbus_session"


def path_for(request: HTTPConnection, path: str) -> str:
    """Return the address of a path of the console, which may be mounted below a prefix."""
    return f"{request.scope.get('root_path', '')}{path}"


def url_for(request: HTTPConnection, route: str, /, **params: Any) -> str:
    """Return the address of a named route, without scheme and host: a proxy may have changed both."""
    return path_for(request, str(request.app.url_path_for(route, **params)))


def with_query(path: str, query: Mapping[str, Any] | None = None, /, **changes: Any) -> str:
    """Return `path` with these parameters; `changes` come over `query`, and None or "" leaves one out."""
    kept = {name: value for name, value in {**(query or {}), **changes}.items() if value not in (None, "")}
    return f"{path}?{urlencode(kept, doseq=True)}" if kept else path
