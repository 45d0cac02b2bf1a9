"""What tests assert of batches and processes: each that does not hold shows the nearest miss."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

import pytest

from commandbus import CommandBus, CommandStatus
from commandbus.process import ProcessAuditEntry, ProcessMetadata, ProcessRepository, ProcessStatus

from . import assertions_sql, statements
from .chaos import ChaosUsageError
from .chaos_rules import StepNames
from .counts import settled_count
from .failure_report import describe_stuck, render_event, render_timeline
from .timeline import read_timeline

if TYPE_CHECKING:
    from .batch_handle import BatchHandle
    from .process_batch import ProcessBatch
    from .runtime import Runtime

SHOWN = 3
_FIRST_PAUSE, _LONGEST_PAUSE, _PAUSE_GROWTH = 0.002, 0.2, 1.5
T = TypeVar("T")


# outcomes


@dataclass(frozen=True, slots=True)
class Members:
    """What a batch is made of: the statuses that one can have, the statements that find them, how one is shown."""

    noun: str
    statuses: type[StrEnum]
    outcomes: str
    having_status: str
    show: Callable[["Runtime", UUID], Awaitable[list[str]]]


async def check_outcomes(
    runtime: "Runtime", batch: "BatchHandle", members: Members, wanted: Mapping[str, int], who: str
) -> None:
    """Raise AssertionError unless the batch has exactly `wanted` members of each status, and none of any other.

    Errors: pytest.UsageError, led by `who`, for a status that its members cannot have, or a number that is none.
    """
    __tracebackhide__ = True
    expected = _read_outcomes(wanted, members.statuses, who)
    parameters = {"batch_id": batch.batch_id}
    async with runtime.pool.connection() as connection:
        actual = dict(await (await connection.execute(members.outcomes, parameters)).fetchall())
    differing = [s for s in map(str, members.statuses) if actual.get(s, 0) != expected.get(s, 0)]
    if not differing:
        return
    lines = [f"{who}: the batch {batch.batch_id} of domain {batch.domain!r} has other outcomes:"]
    for status in differing:
        is_now, should_be = actual.get(status, 0), expected.get(status, 0)
        difference = f"{abs(is_now - should_be)} {'more' if is_now > should_be else 'fewer'}"
        lines.append(f"  {status}: {is_now}, expected {should_be} ({difference})")
    for status in differing:
        if actual.get(status, 0) > expected.get(status, 0):
            lines.extend(await _show_some(runtime, batch, members, status, actual[status]))
    lines.extend(await _hints(batch, members, sum(expected.values()), sum(actual.values())))
    raise AssertionError("\n".join(lines))


async def _show_some(runtime: "Runtime", batch: "BatchHandle", members: Members, status: str, count: int) -> list[str]:
    parameters = {"batch_id": batch.batch_id, "status": status, "limit": SHOWN}
    async with runtime.pool.connection() as connection:
        rows = await (await connection.execute(members.having_status, parameters)).fetchall()
    shown = [line for (member_id,) in rows for line in await members.show(runtime, member_id)]
    return [f"  {status}:", *shown, *([f"    (and {count - SHOWN} more)"] if count > SHOWN else [])]


async def _hints(batch: "BatchHandle", members: Members, expected: int, actual: int) -> list[str]:
    hints = []
    if expected != actual:
        hints.append(f"the expected counts add up to {expected}, the batch has {actual} {members.noun}")
    stats = await batch.refresh()
    if (open_count := stats.total_count - settled_count(stats)) > 0:
        hints.append(f"{open_count} of {stats.total_count} have not ended yet: wait() for the batch first")
    return hints


def _read_outcomes(wanted: Mapping[str, object], statuses: type[StrEnum], who: str) -> dict[str, int]:
    __tracebackhide__ = True
    known = [str(status) for status in statuses]
    read = {}
    for status, count in wanted.items():
        if str(status) not in known:
            raise pytest.UsageError(f"{who}: no status is called {str(status)!r}; valid are {', '.join(known)}")
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise pytest.UsageError(f"{who}: {status}={count!r} must be a number of members, 0 or more")
        read[str(status)] = count
    return read


async def _show_process(runtime: "Runtime", process_id: UUID) -> list[str]:
    """Return a process: its error, its path, and the event that tells of the error."""
    process = await ProcessRepository(runtime.pool).get(process_id)
    events = await read_timeline(runtime.pool, process_id)
    lines = [f"    {_head(process)}"] if process is not None else []
    lines.append(f"      path: {_spell(await _trail(runtime, process_id))}")
    if events:
        last = next((event for event in reversed(events) if event.code is not None), events[-1])
        lines.append("    " + render_event(last, events[0].at))
    return lines


async def _show_command(runtime: "Runtime", command_id: UUID) -> list[str]:
    """Return a command: its data, its error, and its last event."""
    bus = CommandBus(runtime.pool)
    command = await bus.get_command(command_id)
    error = f", {command.error_code}: {command.error_message}" if command.error_code else ""
    lines = [f"    {command.command_type} {command_id} with {command.data}{error}"]
    events = await bus.get_audit_trail(command_id)
    if events:
        seconds = (events[-1].timestamp - events[0].timestamp).total_seconds()
        attempt = "" if events[-1].attempt is None else f"  attempt {events[-1].attempt}"
        lines.append(f"      {seconds:+9.2f} s  {events[-1].event_type}{attempt}")
    return lines


PROCESSES = Members(
    "processes",
    ProcessStatus,
    assertions_sql.OUTCOMES_OF_PROCESSES,
    assertions_sql.PROCESSES_WITH_STATUS,
    _show_process,
)
COMMANDS = Members(
    "commands",
    CommandStatus,
    assertions_sql.OUTCOMES_OF_COMMANDS,
    assertions_sql.COMMANDS_WITH_STATUS,
    _show_command,
)


# paths


async def check_path(runtime: "Runtime", batch: "ProcessBatch", process_id: UUID, steps: Iterable[str]) -> None:
    """Raise AssertionError unless the process has sent exactly these steps, in this order; undo steps do not count."""
    __tracebackhide__ = True
    expected = _read_steps(batch, steps, "assert_path")
    process = await _process(runtime, batch, process_id, "assert_path")
    trail = await _trail(runtime, process_id)
    actual = [str(entry.step) for entry in trail if entry.compensates is None]
    if actual != expected:
        await _raise_path("assert_path", "went another path", batch, process, expected, actual, trail)


async def check_compensated(runtime: "Runtime", batch: "ProcessBatch", process_id: UUID, steps: Iterable[str]) -> None:
    """Raise AssertionError unless exactly these steps of the process were undone, in this order."""
    __tracebackhide__ = True
    expected = _read_steps(batch, steps, "assert_compensated")
    process = await _process(runtime, batch, process_id, "assert_compensated")
    trail = await _trail(runtime, process_id)
    names = {entry.command_id: str(entry.step) for entry in trail}
    actual = [names[e.compensates] for e in trail if e.compensates is not None and e.status == "COMPLETED"]
    if actual != expected:
        await _raise_path("assert_compensated", "undid other steps", batch, process, expected, actual, trail)


async def _raise_path(
    who: str,
    what: str,
    batch: "ProcessBatch",
    process: ProcessMetadata,
    expected: Sequence[str],
    actual: Sequence[str],
    trail: Sequence[ProcessAuditEntry],
) -> None:
    __tracebackhide__ = True
    same = next((i for i, pair in enumerate(zip(expected, actual, strict=False)) if pair[0] != pair[1]), None)
    place = min(len(expected), len(actual)) if same is None else same
    here = [names[place] if place < len(names) else "nothing more" for names in (expected, actual)]
    lines = [
        f"{who}: {_head(process)} {what}:",
        f"  expected: {' > '.join(expected) or 'nothing'}",
        f"  actual:   {' > '.join(actual) or 'nothing'}",
        f"  they differ at step {place + 1}: expected {here[0]}, actual {here[1]}",
        f"  in full:  {_spell(trail)}",
        *(_undo_hint(expected, trail) if who == "assert_compensated" else []),
        *(["it has not ended yet: wait() for the batch first"] if not process.status.is_terminal else []),
        *render_timeline(await batch.timeline(process.process_id)),
    ]
    raise AssertionError("\n".join(lines))


def _undo_hint(expected: Sequence[str], trail: Sequence[ProcessAuditEntry]) -> list[str]:
    names = {entry.command_id: entry.step for entry in trail}
    undo = {str(entry.step): names[entry.compensates] for entry in trail if entry.compensates is not None}
    return [f"  {step} is what undoes {undo[step]}: name the step that is undone" for step in expected if step in undo]


def _spell(trail: Sequence[ProcessAuditEntry]) -> str:
    names = {entry.command_id: entry.step for entry in trail}
    parts = []
    for entry in trail:
        undoes = f" (undoes {names[entry.compensates]})" if entry.compensates is not None else ""
        status = "" if entry.status == "COMPLETED" else f" ({entry.status})"
        parts.append(f"{entry.step}{undoes}{status}")
    return " > ".join(parts) or "nothing was sent"


def _head(process: ProcessMetadata) -> str:
    error = f", {process.error_code}: {process.error_message}" if process.error_code else ""
    return f"process {process.ordinal} ({process.process_id}, {process.status}{error})"


def _read_steps(batch: "ProcessBatch", steps: Iterable[str], who: str) -> list[str]:
    __tracebackhide__ = True
    if isinstance(steps, str):
        raise pytest.UsageError(f"{who}: steps are given as a list, such as [{str(steps)!r}]")
    names = StepNames([batch.manager.step_class])
    try:
        return [names.resolve(str(step), who).name for step in steps]
    except ChaosUsageError as error:
        raise pytest.UsageError(str(error)) from None


async def _process(runtime: "Runtime", batch: "ProcessBatch", process_id: object, who: str) -> ProcessMetadata:
    __tracebackhide__ = True
    if not isinstance(process_id, UUID):
        raise pytest.UsageError(f"{who}: {process_id!r} is no process id: give the `.process_id` of batch.processes()")
    process = await ProcessRepository(runtime.pool).get(process_id)
    if process is None or process.batch_id != batch.batch_id:
        raise pytest.UsageError(
            f"{who}: the batch {batch.batch_id} has no process {process_id}: take one of batch.processes()"
        )
    return process


async def _trail(runtime: "Runtime", process_id: UUID) -> list[ProcessAuditEntry]:
    return await ProcessRepository(runtime.pool).get_audit_trail(process_id)


# nothing left


async def check_nothing_left(runtime: "Runtime", batch: "BatchHandle | None", within: float) -> None:
    """Raise AssertionError if a process, command or reply is left after `within` seconds, of a batch or of the bus."""
    __tracebackhide__ = True
    check_within(within, "assert_nothing_left")
    batch_id = None if batch is None else batch.batch_id
    left = await poll(runtime, lambda: _left(runtime, batch_id), lambda lines: not lines, within)
    if left:
        where = "on the bus" if batch is None else f"of the batch {batch.batch_id} of domain {batch.domain!r}"
        raise AssertionError("\n".join([f"assert_nothing_left: there is something left {where}:", *left]))


async def _left(runtime: "Runtime", batch_id: UUID | None) -> list[str]:
    parameters = {"batch_id": batch_id}
    async with runtime.pool.connection() as connection:
        processes = await (await connection.execute(statements.STUCK_PROCESSES, parameters)).fetchall()
        commands = await (await connection.execute(statements.STUCK_COMMANDS, parameters)).fetchall()
        replies = await (await connection.execute(assertions_sql.REPLIES_LEFT, parameters)).fetchall()
    return [
        *(f"  {describe_stuck(row)}" for row in [*processes, *commands]),
        *(
            f"  {count} x reply to {address!r}: nobody acknowledged it (such as that of command {example})"
            for address, count, example in replies
        ),
    ]


# waiting


def check_within(within: object, who: str) -> None:
    """Raise pytest.UsageError, led by `who`, for a time to wait that is none."""
    __tracebackhide__ = True
    if isinstance(within, bool) or not isinstance(within, int | float) or not within >= 0:
        raise pytest.UsageError(f"{who}: within={within!r} must be a number of seconds, 0 or more")


async def poll(
    runtime: "Runtime", look: Callable[[], Awaitable[T]], is_enough: Callable[[T], bool], within: float
) -> T:
    """Look until it is enough, for at most `within` seconds of real time; return what was seen last."""
    deadline, pause = time.monotonic() + within, _FIRST_PAUSE
    while True:
        started = time.monotonic()
        if is_enough(seen := await look()) or started >= deadline:
            return seen
        runtime.check_workers()
        moved = runtime.skips_time and await runtime.clock.skip() > 0
        pause = _FIRST_PAUSE if moved else min(pause * _PAUSE_GROWTH, _LONGEST_PAUSE)
        await asyncio.sleep(min(pause, max(deadline - time.monotonic(), 0)))
