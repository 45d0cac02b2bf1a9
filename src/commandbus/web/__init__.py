"""The operator console: an ASGI application on FastAPI that one starts by `commandbus console` or mounts.

Needs the extra `web`; nothing else of `commandbus` imports this package.

How it is put together, for who adds pages:

- `create_console(app, pool, settings, site=site)` returns the FastAPI application; `.state.console` is its `Console`
  (app, pool, bus, tsq, site, live, settings). Routers that an application adds with `include_router` stand behind the
  same guard as the console's own; what it mounts elsewhere does not.
- A page module has `def router(console: Console) -> APIRouter`; those of the console are listed in `web/pages`.
- A page is `console.site.render(request, "name.html", **context)`; templates extend `base.html`, whose blocks are
  `title`, `heading`, `actions`, `content` and `scripts`, and import `macros.html`. Links are made by `url_for(name, …)`
  and `path_for("/path")`: both know the prefix under which the console is mounted, neither names a host.
- The guard (web/security.py) checks Host and Origin of everything, and the token of every form post, before a route
  runs: a form has `{{ csrf_field() }}` in it. Routes that take forms say `Depends(site.csrf)` besides, so that they
  are safe outside this guard too. A call with a JSON body needs no token, but is never signed in by the cookie.
- No inline script or style, no style attribute: the policy refuses them. Behaviour goes by data attributes, see
  static/console.js. `document` gets the event `commandbus:snapshot` (detail: the snapshot) for each one that arrives
  while live updates are not paused; `hx-trigger="commandbus:snapshot from:document throttle:2s"` follows it.
- `site.panels.on_dashboard(maker)`, `.on_command(maker)` and `.on_process(maker)` add sections to these pages, see
  web/panels.py.
- `async with console.live.subscribe() as snapshots: async for snapshot in snapshots` is the one broadcaster.
- Tests: httpx's ASGITransport with base_url="http://localhost"; the guard refuses other host names.
"""

from importlib.util import find_spec

_NEEDED = ("fastapi", "jinja2", "python_multipart", "uvicorn")
_missing = [name for name in _NEEDED if find_spec(name) is None]
if _missing:
    raise ImportError(
        f"commandbus.web needs {', '.join(_missing)}, not installed here: pip install 'pytest-commandbus[web]'"
    )

from commandbus.web.console import Console, create_console  # noqa: E402  only once it can be imported
from commandbus.web.panels import Panel, Panels  # noqa: E402
from commandbus.web.passwords import Users, hash_password  # noqa: E402
from commandbus.web.serving import serve  # noqa: E402
from commandbus.web.settings import ConsoleSettings, NotAuthenticatedError  # noqa: E402
from commandbus.web.site import NavLink, Site  # noqa: E402

__all__ = [
    "Console",
    "ConsoleSettings",
    "NavLink",
    "NotAuthenticatedError",
    "Panel",
    "Panels",
    "Site",
    "Users",
    "create_console",
    "hash_password",
    "serve",
]
