"""Audit events as spans of time, drawn to scale: how long a command waited, ran, stood parked. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from commandbus.models import AuditEvent

_NO_STATE = frozenset({"LEASE_EXTENDED", "LATE_OUTCOME_DROPPED"})
_WAITS = {
    "SENT": ("waited", "in the queue"),
    "RELEASED": ("waited", "given back, in the queue"),
    "OPERATOR_RETRY": ("waited", "in the queue, after an operator's retry"),
    "RETRY_SCHEDULED": ("retry", "waited for its retry"),
    "MOVED_TO_TSQ": ("parked", "parked, for an operator"),
}
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 28_800, 43_200, 86_400)
_MOST_TICKS = 4

KINDS = {
    "waited": "waited in the queue",
    "ran": "ran and succeeded",
    "failed": "ran and failed",
    "running": "runs now",
    "retry": "waited for a retry",
    "parked": "parked for an operator",
    "lost": "its lease was lost",
}


@dataclass(frozen=True, slots=True)
class Span:
    """What happened to a command from `start` to `end`; `kind` is one of KINDS, `is_open` when it still does."""

    kind: str
    text: str
    start: datetime
    end: datetime
    is_open: bool = False

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end - self.start).total_seconds()


@dataclass(frozen=True, slots=True)
class Bar:
    """A span on the scale: where it begins and how wide it is, in percent of the whole."""

    span: Span
    left: float
    width: float


@dataclass(frozen=True, slots=True)
class Row:
    """One command's bars, under its name."""

    command_id: UUID
    label: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Rows on one scale of `seconds`; `ticks` are (percent, seconds from the start) pairs.

    `can_be_cut` says that all but a little of it is waiting for an operator; `is_cut` that this was left out.
    """

    start: datetime
    seconds: float
    rows: tuple[Row, ...]
    ticks: tuple[tuple[float, float], ...]
    kinds: dict[str, str]
    can_be_cut: bool = False
    is_cut: bool = False


def spans(events: Iterable[AuditEvent], now: datetime) -> list[Span]:
    """What a command did, oldest first; what it does now ends at `now`."""
    states = [event for event in events if event.event_type not in _NO_STATE]
    found = []
    for index, event in enumerate(states):
        after = states[index + 1] if index + 1 < len(states) else None
        told = _between(event, after)
        if told is not None:
            end = after.timestamp if after is not None else max(now, event.timestamp)
            found.append(Span(*told, event.timestamp, end, after is None))
    return found


def _between(event: AuditEvent, after: AuditEvent | None) -> tuple[str, str] | None:
    """The kind and the words for the time between two events; None once it has ended."""
    if event.event_type != "RECEIVED":
        return _WAITS.get(event.event_type)
    attempt = f"attempt {event.attempt}" if event.attempt is not None else "attempt"
    if after is None:
        return "running", f"{attempt}, runs now"
    if after.event_type == "COMPLETED":
        return "ran", f"{attempt}, succeeded"
    code = after.details.get("code")
    if after.event_type == "RECEIVED" or code == "LEASE_LOST":
        return "lost", f"{attempt}, its lease was lost"
    if after.event_type == "RELEASED":
        return "waited", f"{attempt}, given back unstarted"
    return "failed", f"{attempt}, failed" + (f": {code}" if code else "")


def draw(
    commands: Sequence[tuple[UUID, str, Sequence[AuditEvent]]], now: datetime, *, cut: bool = False
) -> Timeline | None:
    """Put commands, each an id, a label and its events, on one scale; None when there is nothing to draw.

    With `cut` only up to when the one that is parked now was parked: beside hours of waiting an attempt is no wider
    than a hair.
    """
    drawn = [(command_id, label, spans(events, now)) for command_id, label, events in commands]
    everything = [span for _, _, each in drawn for span in each]
    if not everything:
        return None
    start = min(span.start for span in everything)
    waiting = next((s for s in everything if s.is_open and s.kind == "parked" and s.start > start), None)
    if waiting is not None and cut:
        drawn = [(command_id, label, [s for s in each if s is not waiting]) for command_id, label, each in drawn]
        everything.remove(waiting)
    seconds = max((max(span.end for span in everything) - start).total_seconds(), 0.001)

    def percent(length: timedelta) -> float:
        return round(100 * length.total_seconds() / seconds, 3)

    rows = tuple(
        Row(command_id, label, tuple(Bar(s, percent(s.start - start), percent(s.end - s.start)) for s in each))
        for command_id, label, each in drawn
    )
    seen = {span.kind for span in everything}
    kinds = {kind: text for kind, text in KINDS.items() if kind in seen}
    can_be_cut = waiting is not None and waiting.seconds > seconds / 2
    return Timeline(start, seconds, rows, tuple(_ticks(seconds)), kinds, can_be_cut, waiting is not None and cut)


def _ticks(seconds: float) -> Iterable[tuple[float, float]]:
    """Some round times along the scale, from its start on."""
    step = next((step for step in _step_sizes(seconds) if seconds / step <= _MOST_TICKS), seconds)
    for number in range(int(seconds / step) + 1):
        yield round(100 * number * step / seconds, 3), number * step


def _step_sizes(seconds: float) -> Iterable[float]:
    small = (base * 10**power for power in range(-4, 0) for base in (1, 2, 5))
    days = (86_400 * base * 10**power for power in range(5) for base in (1, 2, 5))
    yield from (*small, *_STEPS, *days)
