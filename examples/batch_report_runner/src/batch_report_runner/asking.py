"""A client for the load, with as little of its own as can be: one connection, kept open, on this machine."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """A response: `value` is its JSON, or None."""

    status: int
    value: Any


class Caller:
    """Asks a server at 127.0.0.1, one thing after the other; `async with` closes its connection."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._token = token
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> "Caller":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def ask(self, method: str, path: str, body: Any = None) -> Answer:
        """Ask once, and again when the server has closed the idle connection. Raises OSError when it is not there."""
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\nauthorization: Bearer {self._token}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        was_open = self._streams is not None
        try:
            return await self._once(head.encode() + content)
        except (OSError, EOFError) as error:
            await self._close()
            if was_open:
                return await self.ask(method, path, body)
            raise ConnectionError(f"no answer from port {self._port}: {error}") from error

    async def _once(self, request: bytes) -> Answer:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(request)
        await writer.drain()
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines if line)
        said = await reader.readexactly(int(headers[b"content-length"]))
        is_json = headers[b"content-type"].startswith(b"application/json")
        return Answer(int(first.split(b" ", 2)[1]), json.loads(said) if is_json else None)

    async def _close(self) -> None:
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.close()
