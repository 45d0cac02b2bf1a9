"""What the report of a failed test tells of the bus: counts of its batches, timelines of what is in trouble, logs."""

import asyncio
import threading
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, LiteralString

if TYPE_CHECKING:
    from .pools import LazyPool
    from .runtime import Runtime
    from .timeline import TimelineEntry

TIMELINES = 3
_SHOWN_EVENTS = 40

Section = tuple[str, str]


async def collect(runtime: "Runtime", pool: "LazyPool | None" = None) -> list[Section]:
    """Return (title, text) of each section but the logs. What cannot be read any more is said, never raised.

    pool: of the test's database, where the test's own is of another loop than the running one.
    """
    sections: list[Section] = []
    try:
        if runtime.batches:
            sections.append(("commandbus: batches", await _batches(runtime, pool or runtime.pool)))
            sections.extend(await _timelines(runtime, pool or runtime.pool))
    except Exception as error:  # the test's own failure matters more
        sections.append(("commandbus: batches", f"they could not be read: {type(error).__name__}: {error}"))
    if runtime.faults is not None and runtime.faults.injected:
        sections.append(("commandbus: faults that were injected", runtime.faults.describe()))
    return sections


def collect_elsewhere(runtime: "Runtime") -> list[Section]:
    """Return the sections of `collect` where no loop of the test runs: its fixtures failed. On a thread of its own."""
    from .pools import LazyPool

    found: list[Section] = []

    async def look() -> None:
        pool = LazyPool(runtime.database.dsn, max_size=1)
        try:
            found.extend(await collect(runtime, pool))
        finally:
            await pool.end()

    thread = threading.Thread(target=asyncio.run, args=(look(),), name="commandbus failure report")
    thread.start()
    thread.join()
    return found


def logs(runtime: "Runtime") -> list[Section]:
    """Return the output of the worker processes, once they have ended."""
    return [(f"commandbus: {worker}", text) for pool in runtime.worker_pools for worker, text in pool.logs()]


async def _batches(runtime: "Runtime", pool: "LazyPool") -> str:
    from commandbus import CommandBus

    from .counts import describe

    bus = CommandBus(pool)
    lines = [
        f"{batch.batch_id} of domain {batch.domain!r}, {describe(await bus.get_batch(batch.domain, batch.batch_id))}"
        for batch in runtime.batches
    ]
    if runtime.clock.skipped:
        lines.append(f"{runtime.clock.skipped:.2f} s of waiting were skipped")
    return "\n".join(lines)


async def _timelines(runtime: "Runtime", pool: "LazyPool") -> list[Section]:
    from commandbus import BatchType

    from . import statements
    from .timeline import read_timeline

    asked: list[tuple[LiteralString, str, BatchType]] = [
        (statements.TROUBLED_PROCESSES, "process", BatchType.PROCESS),
        (statements.TROUBLED_COMMANDS, "command", BatchType.COMMAND),
    ]
    sections: list[Section] = []
    for statement, noun, batch_type in asked:
        batches = [batch.batch_id for batch in runtime.batches if batch.stats.batch_type is batch_type]
        parameters = {"batch_ids": batches, "limit": TIMELINES - len(sections)}
        async with pool.connection() as connection:
            troubled = await (await connection.execute(statement, parameters)).fetchall() if batches else []
        for member_id, kind, ordinal, status, step, code, message, why in troubled:
            head = [f"{noun} {ordinal} of its batch: {status}" + (f" in step {step}" if step else "")]
            if code:
                head[0] += f", {code}: {message}"
            if why:
                head.append(f"stuck: {why}")
            text = "\n".join([*head, *render_timeline(await read_timeline(pool, member_id))])
            sections.append((f"commandbus: {kind} {member_id}", text))
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
