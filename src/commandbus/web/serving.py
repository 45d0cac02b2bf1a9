"""Serve a console by uvicorn until a signal, and refuse addresses that others could reach without signing in."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from commandbus.web.console import Console
from commandbus.web.settings import require_loopback

_GRACE = 5  # seconds that requests get to end
_LARGEST_MESSAGE = 4_096  # bytes; nobody has much to tell us by WebSocket


async def serve(
    asgi: FastAPI,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    stop: asyncio.Event | None = None,
    on_ready: Callable[[str], None] = lambda _: None,
) -> None:
    """Serve what `create_console` returned until `stop` is set; port 0 takes a free one.

    `on_ready` is called with the address once it answers. Signals are left to the caller.
    Raises NotAuthenticatedError for an address that other machines reach, unless the console has `auth`; OSError when
    the address cannot be had.
    """
    console: Console = asgi.state.console
    if console.settings.auth is None:
        require_loopback(host)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=256) as listening:
        config = uvicorn.Config(
            asgi,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_GRACE,
            ws_max_size=_LARGEST_MESSAGE,
            limit_concurrency=10 * console.settings.max_sockets,
        )
        await _serve(_Server(config, console), listening, stop or asyncio.Event(), on_ready)


async def _serve(
    server: "_Server", listening: socket.socket, stop: asyncio.Event, on_ready: Callable[[str], None]
) -> None:
    async def announce() -> None:
        await server.is_up.wait()
        host, port = listening.getsockname()[:2]
        on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        await stop.wait()
        server.should_exit = True

    announcing = asyncio.create_task(announce(), name="commandbus console")
    try:
        await server.serve([listening])
    finally:
        announcing.cancel()
        await asyncio.gather(announcing, return_exceptions=True)


class _Server(uvicorn.Server):
    """Leaves signals alone, says when it is up, and ends the live streams before it waits for requests to end."""

    def __init__(self, config: uvicorn.Config, console: Console) -> None:
        super().__init__(config)
        self._console = console
        self.is_up = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._console.live.close()
        await super().shutdown(sockets)
