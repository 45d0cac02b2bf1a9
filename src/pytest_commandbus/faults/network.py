"""A proxy between workers and server, in this process, that delays, swallows and cuts connections.

It listens on a unix socket in a directory that only this user enters, so that nobody else gets to the server by it.
"""

import asyncio
import os
import random
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .rules import Toxics

PORT = 5432
_CHUNK = 1 << 16
_LONGEST_PATH = 80  # bytes of the directory; a socket's path has room for about 100
_SHORT = "/tmp"  # noqa: S108  entered only through mkdtemp
_LOCAL_PEERPID = 2  # macOS


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server is: a directory with its unix socket, or a host, and the port."""

    host: str
    port: int

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection."""
        if self.host.startswith("/"):
            return await asyncio.open_unix_connection(f"{self.host}/.s.PGSQL.{self.port}")
        return await asyncio.open_connection(self.host, self.port)


@dataclass(eq=False)
class Applied:
    """Toxics in force: for the connections of one process, or of all. `on_effect` is called whenever they take effect.

    lines: the connections that they are for, None for all.
    """

    toxics: Toxics
    pid: int | None = None
    lines: "set[Line] | None" = None
    on_effect: Callable[[], None] = lambda: None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def concerns(self, pid: int | None) -> bool:
        """Tell whether they are for connections of a process."""
        return not self.ended.is_set() and (self.pid is None or pid is None or self.pid == pid)

    def touches(self, line: "Line", stream: str) -> bool:
        """Tell whether they are for data that takes a direction on a connection."""
        fits = self.concerns(line.pid) and self.toxics.stream in (stream, "both")
        return fits and (self.lines is None or line in self.lines)


class Proxy:
    """Forwards connections to the server as long as nothing is applied. All of it runs on one loop."""

    def __init__(self, address: Address, seed: int) -> None:
        self.directory = _private_directory()
        self._address = address
        self._random = random.Random(seed)
        self._applied: list[Applied] = []
        self._lines: set[Line] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_unix_server(self._serve, f"{self.directory}/.s.PGSQL.{PORT}", limit=_CHUNK)

    async def close(self) -> None:
        """Cut every connection, and listen no more."""
        if self._server is not None:
            self._server.close()
        for line in list(self._lines):
            line.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shutil.rmtree(self.directory, ignore_errors=True)

    def apply(self, applied: Applied) -> None:
        """Put toxics in force."""
        self._applied.append(applied)
        if applied.toxics.down:
            for line in [line for line in self._lines if applied.concerns(line.pid)]:
                line.cut()
                applied.on_effect()

    def remove(self, applied: Applied) -> None:
        """End them; connections whose data were swallowed are closed."""
        applied.ended.set()
        with suppress(ValueError):
            self._applied.remove(applied)

    def open_lines(self, pid: int | None) -> "set[Line]":
        """Return the connections of a process, or all, that are open now."""
        return {line for line in self._lines if pid is None or line.pid is None or line.pid == pid}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        pid = _peer(writer)
        down = next((a for a in self._applied if a.toxics.down and a.concerns(pid)), None)
        if down is not None:
            down.on_effect()
            writer.transport.abort()
            return
        try:
            server_reader, server_writer = await self._address.connect()
        except OSError:  # the server is away, as it would be without us
            writer.transport.abort()
            return
        line = Line(pid, writer, server_writer)
        self._lines.add(line)
        try:
            await asyncio.gather(
                self._pump(line, reader, server_writer, "upstream"),
                self._pump(line, server_reader, writer, "downstream"),
            )
        finally:
            self._lines.discard(line)
            line.cut()

    async def _pump(
        self, line: "Line", reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: str
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                if not await self._let_through(line, stream):
                    line.cut()
                    return
                writer.write(data)
                await writer.drain()
        if stream == "downstream":
            line.cut()
        elif not writer.transport.is_closing():
            with suppress(OSError):
                writer.write_eof()

    async def _let_through(self, line: "Line", stream: str) -> bool:
        """Do to data what is in force; False when they are lost, and the connection with them."""
        for applied in [a for a in self._applied if a.touches(line, stream)]:
            toxics = applied.toxics
            applied.on_effect()
            if toxics.reset_peer:
                return False
            if toxics.timeout_ms is not None:
                with suppress(TimeoutError):
                    await asyncio.wait_for(applied.ended.wait(), toxics.timeout_ms / 1000 or None)
                return False
            delay = toxics.latency_ms + toxics.jitter_ms * self._random.uniform(-1, 1)
            if delay > 0:
                with suppress(TimeoutError):  # an end of the latency lets go at once
                    await asyncio.wait_for(applied.ended.wait(), delay / 1000)
        return True


@dataclass(eq=False)
class Line:
    """One connection, from both sides. `pid` is the process that opened it, None where that cannot be told."""

    pid: int | None
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter

    def cut(self) -> None:
        """Close it at once; what is under way on it is lost."""
        self.client.transport.abort()
        self.server.transport.abort()


def _peer(writer: asyncio.StreamWriter) -> int | None:
    line: socket.socket = writer.get_extra_info("socket")
    try:
        if hasattr(socket, "SO_PEERCRED"):
            return int(struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
        return int(line.getsockopt(0, _LOCAL_PEERPID))
    except OSError:
        return None


def _private_directory() -> Path:
    place = tempfile.gettempdir()
    if len(os.fsencode(place)) > _LONGEST_PATH - len("/cb-faults-12345678"):
        place = _SHORT
    return Path(tempfile.mkdtemp(prefix="cb-faults-", dir=place))
