"""What the report of a failed test tells of the bus: counts of its batches, timelines of troubled processes, logs."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .process_batch import TimelineEntry
    from .runtime import Runtime

TIMELINES = 3
_SHOWN_EVENTS = 40

Section = tuple[str, str]


async def collect(runtime: "Runtime") -> list[Section]:
    """Return (title, text) of each section. What cannot be read any more is said, never raised."""
    sections: list[Section] = []
    try:
        if runtime.batches:
            sections.append(("commandbus: batches", await _batches(runtime)))
            sections.extend(await _timelines(runtime))
    except Exception as error:  # the test's own failure matters more
        sections.append(("commandbus: batches", f"they could not be read: {type(error).__name__}: {error}"))
    if runtime.faults is not None and runtime.faults.injected:
        sections.append(("commandbus: faults that were injected", runtime.faults.describe()))
    for pool in runtime.worker_pools:
        sections.extend((f"commandbus: {worker}", text) for worker, text in pool.logs())
    return sections


async def _batches(runtime: "Runtime") -> str:
    from .batch_handle import describe

    lines = [
        f"{batch.batch_id} of domain {batch.domain!r}, {describe(await batch.refresh())}" for batch in runtime.batches
    ]
    if runtime.clock.skipped:
        lines.append(f"{runtime.clock.skipped:.2f} s of waiting were skipped")
    return "\n".join(lines)


async def _timelines(runtime: "Runtime") -> list[Section]:
    from . import statements
    from .process_batch import read_timeline

    async with runtime.pool.connection() as connection:
        cursor = await connection.execute(
            statements.TROUBLED_PROCESSES, {"batch_ids": [b.batch_id for b in runtime.batches], "limit": TIMELINES}
        )
        troubled = await cursor.fetchall()
    sections = []
    for process_id, kind, ordinal, status, step, code, message in troubled:
        title = f"commandbus: {kind} {process_id}"
        head = f"process {ordinal} of its batch: {status}" + (f" in step {step}" if step else "")
        if code:
            head += f", {code}: {message}"
        sections.append((title, "\n".join([head, *render_timeline(await read_timeline(runtime, process_id))])))
    return sections


def describe_stuck(row: tuple[Any, ...]) -> str:
    """Return a row of what is not finished in one line."""
    kind, status, step, why, count, example = row
    return f"{count} x {kind} {status}{f' in step {step}' if step else ''}: {why} (such as {example})"


def render_timeline(entries: "Sequence[TimelineEntry]") -> list[str]:
    """Return one line an event: seconds since the first, step, event, attempt, worker, and error, injected or real."""
    if not entries:
        return ["  nothing was sent"]
    start = entries[0].at
    lines = [render_event(entry, start) for entry in entries[-_SHOWN_EVENTS:]]
    left_out = len(entries) - len(lines)
    return ([f"  ({left_out} earlier events left out)"] if left_out > 0 else []) + lines


def render_event(entry: "TimelineEntry", start: datetime) -> str:
    """Return the line of one event of a timeline that began at `start`."""
    parts: list[Any] = [
        f"  {(entry.at - start).total_seconds():+9.2f} s",
        entry.step + (f" (visit {entry.visit})" if entry.visit > 1 else ""),
        entry.event,
    ]
    if entry.compensates:
        parts.insert(2, "undo")
    if entry.attempt is not None:
        parts.append(f"attempt {entry.attempt}")
    if entry.worker_id is not None:
        parts.append(f"worker {entry.worker_id}")
    if entry.code is not None:
        parts.append(f"{'injected' if entry.injected else 'real'} {entry.code}: {entry.message}")
    return "  ".join(str(part) for part in parts)
