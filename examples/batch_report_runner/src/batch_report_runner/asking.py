"""A client for the load, with as little of its own as can be: one request, one connection, on this machine."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """A response: `value` is its JSON, or None."""

    status: int
    value: Any


async def ask(port: int, method: str, path: str, token: str, body: Any = None) -> Answer:
    """Ask a server at 127.0.0.1. Raises OSError when it cannot be reached."""
    content = b"" if body is None else json.dumps(body).encode()
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {token}\r\n"
        f"connection: close\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + content)
        await writer.drain()
        said = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    top, _, rest = said.partition(b"\r\n\r\n")
    status = int(top.split(b" ", 2)[1])
    is_json = b"content-type: application/json" in top.lower()
    return Answer(status, json.loads(rest) if is_json else None)
