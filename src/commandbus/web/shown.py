"""How values are written on a page. Pure; the templates escape what comes out."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

_NOTHING = "–"  # noqa: RUF001  a dash for what is not there
_USUAL = frozenset({"operator", "reason", "code", "message", "delay"})


def number(value: float | None, digits: int = 0) -> str:
    """Write 12,345.6; a dash for None."""
    return _NOTHING if value is None else f"{value:,.{digits}f}"


def rate(value: float | None) -> str:
    """Write a rate per second: one digit after the point below 100."""
    return _NOTHING if value is None else number(value, 1 if 0 < abs(value) < 100 else 0)


def duration(seconds: float | None) -> str:
    """Write two or three digits that count: 0.02 ms, 4.1 ms, 130 ms, 2.5 s, 340 s, 12 min, 3 h, 2 d."""
    if seconds is None:
        return _NOTHING
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if abs(seconds) >= 10 * size:
            return f"{seconds / size:,.0f} {unit}"
    if seconds == 0:
        return "0 s"
    if abs(seconds) < 0.000_005:
        return "< 0.01 ms"
    value, unit = (seconds * 1_000, "ms") if abs(seconds) < 1 else (seconds, "s")
    return f"{value:.{2 if abs(value) < 1 else 1 if abs(value) < 10 else 0}f} {unit}"


def utc(value: datetime | None) -> str:
    """Write a time in UTC, to the second."""
    return _NOTHING if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def utc_exactly(value: datetime) -> str:
    """Write a time in UTC, to the millisecond."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}.{value.microsecond // 1_000:03d}"


def iso(value: datetime) -> str:
    """Write a time for programs."""
    return value.astimezone(UTC).isoformat()


def pretty_json(value: Any) -> str:
    """Write a JSON value over several lines."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def more_details(details: Mapping[str, Any]) -> dict[str, Any]:
    """What an audit event's details have beside the usual, which is shown in words."""
    return {name: value for name, value in details.items() if name not in _USUAL}


def words(value: str) -> str:
    """Write IN_TROUBLESHOOTING_QUEUE as `in troubleshooting queue`."""
    return str(value).replace("_", " ").lower()


FILTERS: Mapping[str, Callable[..., Any]] = {
    "number": number,
    "rate": rate,
    "duration": duration,
    "utc": utc,
    "utc_exactly": utc_exactly,
    "iso": iso,
    "pretty_json": pretty_json,
    "words": words,
    "more_details": more_details,
}
