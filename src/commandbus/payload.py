"""What may be stored as JSON: refused at send, made safe on write-back, and how a domain may be called.

Three things that go wrong silently are caught here: orjson writes NaN as null, PostgreSQL's type json stores
U+0000 and lone surrogates and then fails on reading them, and Python refuses to read very long integers.
"""

import json
import math
import re
from collections.abc import Iterable
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from commandbus.errors import InvalidIdError, InvalidNameError, InvalidPayloadError

MAX_BYTES = 1_048_576
MAX_DEPTH = 100
MAX_DIGITS = 4_000
_MAX_INTEGER = 2_147_483_647

_TOO_LONG = 10**MAX_DIGITS
_SMALL = 1 << 63
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
_FLAT = frozenset({str, int, bool, type(None)})  # nothing about these needs a look but the text
_FEW = 1_000  # members, beyond which a walk is worth its time
_CONTAINERS = (dict, list, tuple)
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_SURROGATE = re.compile("[\ud800-\udfff]")
_MANY_DIGITS = re.compile(r"[0-9]{19}")

_Path = tuple[Any, ...]  # (path of the parent, key or index), or () for the payload itself


def dump_payload(data: object, *, limit: int = MAX_BYTES, what: str = "data") -> str:
    """Return `data`, which must be a JSON object (a dict), as JSON text that PostgreSQL and Python read back equal.

    `limit` is in bytes of that text; `what` is the name that starts the path in an error.
    Raises InvalidPayloadError, which names the path, for whatever JSON, PostgreSQL or Python would not give back.
    """
    if not isinstance(data, dict):
        raise InvalidPayloadError(what, f"a JSON object (a dict) is needed, not {_type_name(data)}")
    if (text := _dump_plain(data, limit)) is not None:
        return text
    _check(data, limit, what)
    raw = _dump_checked(data)
    if len(raw) > limit:
        raise InvalidPayloadError(what, _too_large(limit, f"{len(raw):,}"))
    return raw.decode()


def load_payload(text: str | bytes) -> Any:
    """Return what dump_payload was given. orjson alone would read integers beyond 64 bits as floats."""
    digits = _MANY_DIGITS.search(text if isinstance(text, str) else text.decode())
    return orjson.loads(text) if digits is None else json.loads(text)


def check_name(value: object, what: str = "domain") -> str:
    """Return `value` if it can name a domain, a command type or the like, else raise InvalidNameError."""
    if not isinstance(value, str) or not _is_name(name := str.__str__(value)):
        raise InvalidNameError(what, _short(value))
    return name


def check_id(value: object, what: str = "command_id") -> UUID:
    """Return `value` if it is a UUID, else raise InvalidIdError; a text that looks like one is none."""
    if not isinstance(value, UUID):
        raise InvalidIdError(what, _short(value), _type_name(value))
    return value


def check_text(value: object, what: str) -> str:
    """Return `value` if it is text that PostgreSQL can store, else raise InvalidPayloadError."""
    if not isinstance(value, str):
        raise InvalidPayloadError(what, f"text is needed, not {_type_name(value)}")
    if (problem := _text_problem(value)) is not None:
        raise InvalidPayloadError(what, problem)
    return value


def check_count(value: object, what: str, least: int = 1) -> int:
    """Return `value` if it is a whole number from `least` to the most that an integer column holds; else ValueError."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{what} must be a whole number, not {_short(value)}")
    if not least <= value <= _MAX_INTEGER:
        bound = f"at least {least}" if value < least else f"at most {_MAX_INTEGER:,}"
        raise ValueError(f"{what} must be {bound}, not {_short(value)}")
    return value


def check_time(value: datetime, what: str) -> datetime:
    """Return `value` if it is a time with its time zone, else raise ValueError."""
    if value.utcoffset() is None:
        raise ValueError(f"{what} needs a time zone, as in datetime.now(UTC); {value.isoformat()} has none")
    return value


@lru_cache(maxsize=1_024)  # an application has few names, and each of its commands has two
def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def _dump_plain(data: dict[Any, Any], limit: int) -> str | None:
    """The common small payload, without a look at each value; None when anything about it needs one."""
    if type(data) is not dict:
        return None
    is_flat = len(data) <= _FEW and _FLAT.issuperset(map(type, data.values()))
    if not is_flat and not _is_plain(data):
        return None
    try:
        raw = orjson.dumps(data, option=_OPTIONS)
    except TypeError:
        return None
    text = raw.decode()
    if len(raw) > limit or "\\u0000" in text:  # that may stand for the character that PostgreSQL cannot read back
        return None
    return text


def _is_plain(data: dict[Any, Any]) -> bool:
    """Whether all of it is of JSON's own types, of moderate size and depth."""
    containers: list[Any] = [data]
    members = 0
    for container in containers:  # it grows as they are found; their number also bounds the nesting
        values = container.values() if type(container) is dict else container
        members += len(values)
        if members > _FEW or len(containers) >= MAX_DEPTH:
            return False
        if _FLAT.issuperset(map(type, values)):
            continue
        for value in values:
            kind = type(value)
            if kind is dict or kind is list:
                containers.append(value)
            elif kind not in _FLAT and (kind is not float or not math.isfinite(value)):
                return False  # orjson writes NaN as null
    return True


def _dump_checked(data: dict[Any, Any]) -> bytes:
    try:
        return orjson.dumps(data, option=_OPTIONS)
    except TypeError:  # valid, but beyond orjson: integers over 64 bits, and subclasses of float, tuple or a key's str
        return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


def _check(root: dict[Any, Any], limit: int, what: str) -> None:
    """Walk `root` without recursion and raise for the first thing that may not be stored."""
    size = 0  # a lower bound of the bytes it will take, so that shared parts cannot blow up while they are written
    waiting: list[tuple[Any, _Path, int]] = [(root, (), 1)]
    while waiting:
        container, path, depth = waiting.pop()
        size += len(container)
        members: Iterable[tuple[Any, Any]] = enumerate(container)
        if isinstance(container, dict):
            for key in container:
                if (problem := _key_problem(key)) is not None:
                    raise InvalidPayloadError(_spell(what, path), problem)
                size += len(key)
            members = container.items()
        for key, value in members:
            if isinstance(value, str):
                size += len(value)
                problem = _text_problem(value)
            elif isinstance(value, _CONTAINERS):
                problem = None if depth < MAX_DEPTH else f"nesting beyond {MAX_DEPTH} levels is refused; flatten it"
                waiting.append((value, (path, key), depth + 1))
            else:
                problem = _scalar_problem(value)
            if problem is not None:
                raise InvalidPayloadError(_spell(what, (path, key)), problem)
        if size > limit:
            raise InvalidPayloadError(what, _too_large(limit, f"at least {size:,}"))


def _key_problem(key: object) -> str | None:
    if not isinstance(key, str):
        return f"key {_short(key)} is of type {_type_name(key)}; keys of a JSON object are strings"
    problem = _text_problem(key)
    return None if problem is None else f"key {_short(key)}: {problem}"


def _text_problem(text: str) -> str | None:
    if "\0" in text:
        return "U+0000 cannot be read back by PostgreSQL; remove it, or send bytes as base64 text"
    if not text.isascii() and _SURROGATE.search(text) is not None:
        return "a lone surrogate is no Unicode text; decode the text with the right encoding"
    return None


def _scalar_problem(value: object) -> str | None:
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int):
        if -_SMALL <= value < _SMALL or -_TOO_LONG < value < _TOO_LONG:
            return None
        return f"Python would not read back an integer of more than {MAX_DIGITS:,} digits; send it as a string"
    if isinstance(value, float):
        if math.isfinite(value):
            return None
        return f"{_float_name(value)} is not JSON; send null or a string"
    hint = "base64 text" if isinstance(value, bytes | bytearray | memoryview) else "text, a number, a list or a dict"
    return f"{_type_name(value)} is not JSON; send {hint}"


def _float_name(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _too_large(limit: int, size: str) -> str:
    return f"{size} bytes of JSON, over the limit of {limit:,}; store the bulk elsewhere and send a reference"


def _type_name(value: object) -> str:
    return _clean_text(type(value).__name__)[:60]


def _short(value: object) -> str:
    """An ASCII spelling of `value` that is safe to show in an error, at most 43 characters long."""
    spelled = ascii(value) if isinstance(value, str | int | float | bytes) and not _is_long(value) else ""
    spelled = spelled or f"<{_type_name(value)}>"
    return spelled if len(spelled) <= 43 else spelled[:40] + "..."


def _is_long(value: object) -> bool:
    return isinstance(value, int) and not -_SMALL <= value < _SMALL


def _spell(what: str, path: _Path) -> str:
    """`data.items[3].price`, and `data["odd key"]` for a key that is no identifier; long paths lose their middle."""
    keys: list[Any] = []
    while path:
        path, key = path
        keys.append(key)
    parts = [_spell_key(key) for key in reversed(keys)]
    if len(parts) > 12:
        parts = [*parts[:6], f"...({len(parts) - 9} levels)", *parts[-3:]]
    return "".join(chain((what,), parts))


def _spell_key(key: Any) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if _IDENTIFIER.fullmatch(key) else f"[{_short(key)}]"


class Sanitised(NamedTuple):
    """A value that is safe to store, its JSON text, and whether it differs from the value that was given."""

    value: Any
    json: str
    changed: bool


def sanitise(value: object, *, limit: int = MAX_BYTES, what: str = "result") -> Sanitised:
    """Make what a handler returned safe to store; never raises, so that an outcome can always be recorded.

    What JSON or PostgreSQL cannot hold becomes text that tells what it was; a value of more than `limit` bytes, or
    one that cannot be read at all, becomes an object with the one key `left_out` and the reason.
    """
    if value is None:
        return _NOTHING
    try:
        if isinstance(value, dict) and (text := _dump_plain(value, limit)) is not None:
            return Sanitised(value, text, False)
        cleaner = _Cleaner(limit)
        safe = cleaner.clean(value, 0)
        raw = orjson.dumps(safe)
        if len(raw) <= limit:
            return Sanitised(safe, raw.decode(), cleaner.changed)
        reason = f"{what} of {len(raw):,} bytes, over the limit of {limit:,}"
    except _OverLimitError:
        reason = f"{what} of more than {limit:,} bytes, the limit"
    except Exception as error:  # a handler's object may raise anything while it is read
        reason = f"{what} could not be read: {_type_name(error)}"
    notice = {"left_out": reason}
    return Sanitised(notice, orjson.dumps(notice).decode(), True)


def sanitise_text(text: object, limit: int = 10_000) -> str:
    """Return `text` (or an exception's text) so that PostgreSQL stores it, at most `limit` characters; never raises."""
    try:
        spelled = str.__str__(text if isinstance(text, str) else str(text))
    except Exception as error:  # __str__ of a user's exception may raise anything
        spelled = f"<{_type_name(text)} without a text: {_type_name(error)}>"
    safe = _clean_text(spelled[:limit])
    if len(spelled) <= limit and len(safe) <= limit:
        return safe
    notice = f"... (cut, {len(spelled):,} characters in all)"[:limit]
    return safe[: limit - len(notice)] + notice


def _clean_text(text: str) -> str:
    """U+0000 and lone surrogates become visible escapes."""
    if "\0" in text:
        text = text.replace("\0", "\\x00")
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


class _OverLimitError(Exception):
    """The value being made safe takes more bytes than the limit."""


class _Cleaner:
    """Copies a value into plain JSON types; `changed` tells whether anything had to be replaced."""

    def __init__(self, limit: int) -> None:
        self.changed = False
        self._room = limit

    def clean(self, value: object, depth: int) -> Any:
        self._room -= 1
        if self._room < 0:
            raise _OverLimitError
        if value is None or value is True or value is False:
            return value
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, dict | list | tuple | set | frozenset):
            if depth >= MAX_DEPTH:
                return self._replace(f"<nesting beyond {MAX_DEPTH} levels>")
            if isinstance(value, dict):
                return self._object(value, depth + 1)
            self.changed = self.changed or isinstance(value, set | frozenset)
            return [self.clean(member, depth + 1) for member in value]
        return self._scalar(value, depth)

    def _object(self, members: dict[Any, Any], depth: int) -> dict[str, Any]:
        safe: dict[str, Any] = {}
        for key, value in members.items():
            name = key if type(key) is str else self._key(key)
            name = unique = self._text(name)
            while unique in safe:  # two keys may look the same once they are text
                unique = f"{name} ({len(safe)})"
            safe[unique] = self.clean(value, depth)
        return safe

    def _key(self, key: object) -> str:
        if isinstance(key, str):
            return str.__str__(key)
        self.changed = True
        if key is None or isinstance(key, bool):
            return json.dumps(key)
        return str(self._scalar(key, 0))

    def _text(self, text: str) -> str:
        safe = _clean_text(str.__str__(text))
        self._room -= len(safe)
        if self._room < 0:
            raise _OverLimitError
        self.changed = self.changed or safe != text
        return safe

    def _scalar(self, value: object, depth: int) -> Any:
        if isinstance(value, int):
            plain = int.__int__(value)
            if -_SMALL <= plain < 2 * _SMALL:  # what orjson writes
                return plain
            if -_TOO_LONG < plain < _TOO_LONG:
                return self._replace(str(plain))
            return self._replace(f"<integer of more than {MAX_DIGITS:,} digits>")
        if isinstance(value, float):
            return float.__float__(value) if math.isfinite(value) else self._replace(f"<{_float_name(value)}>")
        if isinstance(value, date | time):
            return self._replace(value.isoformat())
        if isinstance(value, UUID | Decimal):
            return self._replace(_clean_text(str(value)))
        if isinstance(value, Enum):
            self.changed = True
            return self.clean(value.value, depth)
        if isinstance(value, bytes | bytearray | memoryview):
            return self._replace(f"<{memoryview(value).nbytes:,} bytes>")
        return self._replace(f"<{_type_name(value)}>")

    def _replace(self, marker: str) -> str:
        self.changed = True
        self._room -= len(marker)
        return marker


_NOTHING = Sanitised(None, "null", False)
