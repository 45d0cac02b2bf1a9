"""Headers: texts that travel with a command, from its sender to its handler, its reply and its process's next command.

They are what a tracing library carries its context in; the bus itself reads none of them.
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from commandbus.errors import InvalidPayloadError
from commandbus.payload import sanitise

Headers = Callable[[str, str], Mapping[str, str]]
"""(domain, command type) of a command that is about to be sent -> its headers."""

MOST_BYTES = 16_384


def dump_headers(headers: Mapping[Any, Any]) -> str | None:
    """Give headers as JSON text, None when there are none. Raises InvalidPayloadError for other things than texts."""
    if not headers:
        return None
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            problem = f"{name!r}: {type(value).__name__}; both the name and the value must be str"
            raise InvalidPayloadError("headers", problem)
    safe = sanitise(dict(headers), limit=MOST_BYTES, what="headers")
    if safe.changed:
        raise InvalidPayloadError("headers", f"not plain text of at most {MOST_BYTES:,} bytes in all; carry less")
    return safe.json


def keep_headers(headers: Mapping[Any, Any]) -> str | None:
    """The same for what a handler left: never raises, since its outcome has to be recorded; then there are none."""
    try:
        return dump_headers(headers)
    except Exception:  # a handler may leave anything there
        return None


def load_headers(text: str | None) -> dict[str, str]:
    """Parse stored headers."""
    return {} if text is None else {str(name): str(value) for name, value in orjson.loads(text).items()}
