"""The console's tests: a database and an application, its routes by httpx, its pages in a real browser.

`client` asks the ASGI application without a server; `served` has an address that a browser can load, `page` is one.
"""

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import pytest_asyncio
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from psycopg_pool import AsyncConnectionPool

from commandbus import App
from commandbus.web import Console, ConsoleSettings, create_console, serve
from pytest_commandbus.database import Database

PATIENCE = 60.0  # seconds until a test gives up waiting

_Result = TypeVar("_Result")


@pytest.fixture
def console_app() -> App:
    """The application whose console it is; a test may declare handlers and processes on it."""
    return App(name="shop")


@asynccontextmanager
async def client_of(asgi: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an ASGI application, as a browser that reads pages."""
    headers = {"accept": "text/html"} | options.pop("headers", {})
    options = {"base_url": "http://localhost", "headers": headers, "timeout": PATIENCE} | options
    async with httpx.AsyncClient(transport=httpx.ASGITransport(asgi), **options) as client:
        yield client


@pytest_asyncio.fixture
async def client(console_app: App, cb_pool: AsyncConnectionPool[Any]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the console on the test's database."""
    async with client_of(create_console(console_app, cb_pool)) as found:
        yield found


class Served:
    """A console that listens on a free port of the loopback address, in a thread with a loop and a pool of its own.

    Playwright holds the loop of the test's thread: a browser test is a plain function, and awaits by `call`.
    """

    def __init__(self, dsn: str, make: Callable[[AsyncConnectionPool[Any]], Any]) -> None:
        self._dsn = dsn
        self._make = make
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self.url = ""

    @property
    def console(self) -> Console:
        """The console's parts, for use in its loop: see `call`."""
        found: Console = self.asgi.state.console
        return found

    def call(self, work: Awaitable[_Result]) -> _Result:
        """Await something in the console's loop, as `served.call(served.console.bus.send(...))`; returns its result."""

        async def awaited() -> _Result:
            return await work

        return asyncio.run_coroutine_threadsafe(awaited(), self._loop).result(PATIENCE)

    def __enter__(self) -> "Served":
        self._thread.start()
        assert self._ready.wait(PATIENCE), "the console did not start"
        if self._failure is not None:
            raise self._failure
        return self

    def stop(self) -> None:
        """Ask it to end."""
        self._loop.call_soon_threadsafe(self._stop.set)

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.stop()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the console did not stop"

    async def _run(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with AsyncConnectionPool(self._dsn, min_size=0, max_size=10, open=False) as pool:
                self.asgi = self._make(pool)
                await serve(self.asgi, port=0, stop=self._stop, on_ready=self._announce)
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    def _announce(self, url: str) -> None:
        self.url = url
        self._ready.set()


@pytest.fixture
def served(console_app: App, cb_database: Database) -> Iterator[Served]:
    """The console of `console_app` on the test's database, at `served.url`."""
    with Served(cb_database.dsn, lambda pool: create_console(console_app, pool, ConsoleSettings())) as found:
        yield found


def find_chromium() -> str | None:
    """Where Debian's, or the named, Chromium is."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


# Of a module, not of the session: in between, the loop of this thread is free for async tests.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium; its tests are skipped where there is none, unless CB_BROWSER_TESTS=required."""
    executable = find_chromium()
    if executable is None:
        no_chromium = "no chromium on this machine (Debian: apt-get install chromium; elsewhere set CHROMIUM)"
        if os.environ.get("CB_BROWSER_TESTS") == "required":
            pytest.fail(no_chromium)
        pytest.skip(no_chromium)
    with sync_playwright() as playwright:
        expect.set_options(timeout=PATIENCE * 1_000)
        options = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to be root with it
        found = playwright.chromium.launch(executable_path=executable, args=[*options, "--disable-dev-shm-usage"])
        yield found
        found.close()


class Watched:
    """A page and what went wrong on it: dialogs, errors of scripts, refusals of the policy, requests to elsewhere."""

    def __init__(self, context: BrowserContext) -> None:
        self.problems: list[str] = []
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE * 1_000)
        self.page.on("dialog", self._dialog)
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.page.on("console", self._said)

    def _dialog(self, dialog: Any) -> None:
        self.problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text}")


@pytest.fixture
def watched(browser: Browser, served: Served) -> Iterator[Watched]:
    """A page of the served console; a dialog, an error of a script or of the policy fails the test."""
    context = browser.new_context(base_url=served.url, viewport={"width": 1280, "height": 900})
    found = Watched(context)
    yield found
    context.close()
    assert found.problems == []


@pytest.fixture
def page(watched: Watched) -> Page:
    """The page alone; see `watched`."""
    return watched.page


LOOKS = {
    "desktop-light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "desktop-dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone-light": {"viewport": {"width": 375, "height": 800}, "color_scheme": "light"},
    "phone-dark": {"viewport": {"width": 375, "height": 800}, "color_scheme": "dark"},
}
"""The four looks that every page has; CB_SCREENSHOTS names a folder for pictures of them."""


def keep_picture(page: Page, name: str) -> None:
    """Keep a picture of the page if somebody wants to look at it."""
    if folder := os.environ.get("CB_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
