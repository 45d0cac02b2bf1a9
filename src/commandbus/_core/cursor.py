"""Keyset paging: where a page ended, as a text that its reader need not understand."""

import base64
import binascii
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import orjson

from commandbus.errors import InvalidCursorError
from commandbus.models import CommandStatus, Page

MOST_ITEMS = 1_000
_Item = TypeVar("_Item")
_SMALL = 1 << 63


def check_limit(limit: int) -> int:
    """Return `limit` if a page may have so many items, 1 to 1,000; else raise ValueError."""
    if type(limit) is not int or not 1 <= limit <= MOST_ITEMS:
        raise ValueError(f"limit must be 1 to {MOST_ITEMS:,}, not {limit!r}")
    return limit


def make_page(found: Sequence[_Item], limit: int, key: Callable[[_Item], Sequence[Any]]) -> Page[_Item]:
    """A page of what a query for `limit` + 1 items found; `key` gives the values that the next page begins after.

    One more than `limit` says that there is a next page.
    """
    items = list(found[:limit])
    return Page(items, dump_cursor(key(items[-1])) if len(found) > limit else None)


def dump_cursor(values: Sequence[str | int | datetime | UUID]) -> str:
    """Write the key of the last item that was given out; times are aware ones."""
    return base64.urlsafe_b64encode(orjson.dumps(list(values))).decode().rstrip("=")


def load_cursor(text: str | None, kinds: Sequence[type[Any]]) -> tuple[Any, ...] | None:
    """Read what dump_cursor wrote, one value of each of `kinds` (str, int, datetime, UUID); None for None.

    Raises InvalidCursorError for anything else.
    """
    if text is None:
        return None
    try:
        values = orjson.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
        if not isinstance(values, list) or len(values) != len(kinds):
            raise InvalidCursorError(text)
        return tuple(_READERS[kind](value) for value, kind in zip(values, kinds, strict=True))
    except (binascii.Error, TypeError, ValueError, OverflowError) as error:  # orjson's error is a ValueError too
        raise InvalidCursorError(text) from error


def load_command_place(text: str | None, status: CommandStatus | None) -> dict[str, Any]:
    """Read where a listing of commands goes on: after a time and an id, or after a place in the queue."""
    try:
        created_at, command_id = load_cursor(text, (datetime, UUID)) or (None, None)
    except InvalidCursorError:
        if status != CommandStatus.IN_PROGRESS:
            raise
        return {"created_at": None, "command_id": None, "seq": (load_cursor(text, (int,)) or (None,))[0]}
    return {"created_at": created_at, "command_id": command_id, "seq": None}


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise TypeError("no text")
    return value


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -_SMALL <= value < _SMALL:
        raise TypeError("no integer that a column holds")
    return value


def _time(value: object) -> datetime:
    time = datetime.fromisoformat(_text(value))
    if time.utcoffset() is None:
        raise ValueError("a time without its zone")
    return time


_READERS: dict[type[Any], Callable[[object], Any]] = {
    str: _text,
    int: _integer,
    datetime: _time,
    UUID: lambda value: UUID(_text(value)),
}
