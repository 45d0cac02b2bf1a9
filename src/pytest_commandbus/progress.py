"""Live progress of a load test: figures read from PostgreSQL by a thread, shown as a bar or as plain lines.

What is shown is decided by pure functions of snapshots. The thread writes to a stream of its own, a duplicate of the
terminal that pytest started with, so that it neither lands in captured output nor lets any through.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from .report import number, seconds

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

BAR_INTERVAL = 0.25
LOOK_INTERVAL = 1.0
LINE_SECONDS = 5.0
FIRST_LOOK = 1.0
LONGEST_PAUSE = 5.0
PACE_SECONDS = 5.0
MOST_OF_THE_TIME = 20
"""A look at the database is followed by a pause this many times as long, within LONGEST_PAUSE."""


@dataclass(frozen=True)
class Snapshot:
    """A load run at a moment: how many processes it shall have, are created, have ended or are parked.

    commands: that the workers of its test have settled for good or parked, as of their heartbeats. seconds: wall time
    since the run began. skipped: seconds of waiting that took no real time. unit: what else than processes is counted.
    """

    total: int
    created: int
    done: int
    parked: int
    commands: int
    seconds: float
    skipped: float
    unit: str = "processes"

    @property
    def percentage(self) -> int:
        """How much of the run is done, 100 only when all of it is."""
        return self.done * 100 // self.total if self.total else 100

    @property
    def tenth(self) -> tuple[str, int]:
        """What the run is doing, and how many tenths of that are done."""
        doing = phase(self)
        count = self.created if doing == "creating" else self.done
        return doing, count * 10 // self.total if self.total else 10


@dataclass(frozen=True)
class Pace:
    """Processes and commands a second over the last stretch, and the seconds that remain (None: not known yet)."""

    per_second: float
    commands_per_second: float
    remaining: float | None


def pace(earlier: Snapshot, now: Snapshot) -> Pace:
    """How fast the run went between two snapshots: its creation while nothing is done, then its processes."""
    stretch = now.seconds - earlier.seconds
    if stretch <= 0:
        return Pace(0.0, 0.0, None)
    commands = (now.commands - earlier.commands) / stretch
    if phase(now) == "creating":
        return Pace((now.created - earlier.created) / stretch, commands, None)
    per_second = (now.done - earlier.done) / stretch
    return Pace(per_second, commands, (now.total - now.done) / per_second if per_second > 0 else None)


def phase(snapshot: Snapshot) -> str:
    """What the run is doing."""
    return "creating" if snapshot.created < snapshot.total and not snapshot.done else "running"


def rates(snapshot: Snapshot, speed: Pace) -> list[str]:
    """How fast the run goes: its processes once one has ended (or while they are created), and its commands."""
    told = []
    if snapshot.done or phase(snapshot) == "creating":
        told.append(f"{number(speed.per_second)} {snapshot.unit}/s")
    if speed.commands_per_second:
        told.append(f"{number(speed.commands_per_second)} commands/s")
    return told


def plain_line(name: str, snapshot: Snapshot, speed: Pace) -> str:
    """One line of progress for a log."""
    if phase(snapshot) == "creating":
        count = f"created {number(snapshot.created)} of {number(snapshot.total)}"
    else:
        count = f"{number(snapshot.done)} of {number(snapshot.total)} done ({snapshot.percentage} %)"
    parts = [f"{name}: {count}", *rates(snapshot, speed)]
    if speed.remaining is not None:
        parts.append(f"{seconds(speed.remaining)} left")
    if snapshot.parked:
        parts.append(f"{number(snapshot.parked)} in troubleshooting")
    if snapshot.skipped:
        parts.append(f"skipped {seconds(snapshot.skipped)}")
    return ", ".join(parts)


class Display(Protocol):
    """Where progress is shown."""

    interval: float

    def show(self, name: str, snapshot: Snapshot, speed: Pace) -> None:
        """Show the newest figures."""

    def close(self) -> None:
        """Take away what is only meant to be seen during the run."""


class PlainDisplay:
    """A line at each tenth of the run, and every few seconds between."""

    interval = LOOK_INTERVAL

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last: Snapshot | None = None

    def show(self, name: str, snapshot: Snapshot, speed: Pace) -> None:
        """Write one line if it is due; the first begins on a line of its own."""
        last = self._last
        if last is not None and snapshot.tenth == last.tenth and 0 <= snapshot.seconds - last.seconds < LINE_SECONDS:
            return
        before = "\n" if last is None else ""
        self._last = snapshot
        self._stream.write(f"{before}commandbus: {plain_line(name, snapshot, speed)}\n")
        self._stream.flush()

    def close(self) -> None:
        """Leave the lines standing."""


class BarDisplay:
    """A bar with rate, percentage and remaining time, which goes when the run ends."""

    interval = BAR_INTERVAL

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def show(self, name: str, snapshot: Snapshot, speed: Pace) -> None:
        """Draw the bar anew."""
        if self._progress is None or self._task is None:
            self._progress, self._task = self._start(snapshot.total)
        creating = phase(snapshot) == "creating"
        left = "" if speed.remaining is None else f"{seconds(speed.remaining)} left"
        self._progress.update(
            self._task,
            completed=snapshot.created if creating else snapshot.done,
            description=f"{name}: {'creating' if creating else 'running'}",
            rate=", ".join(rates(snapshot, speed)),
            left=left,
            parked=f"{number(snapshot.parked)} parked" if snapshot.parked else "",
            refresh=True,
        )

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _start(self, total: int) -> tuple[Progress, TaskID]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn

        self._stream.write("\n")
        progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} {task.fields[left]} {task.fields[parked]}", markup=False),
            console=Console(file=self._stream, force_terminal=True),
            transient=True,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        progress.start()
        return progress, progress.add_task("", total=total, rate="", left="", parked="")


def terminal_stream() -> TextIO:
    """The terminal as pytest has it now, on a file descriptor that output capturing does not touch.

    Call it while nothing is captured (in pytest_configure). Close the stream, if it is not sys.stdout itself.
    """
    try:
        descriptor = os.dup(sys.stdout.fileno())
    except (io.UnsupportedOperation, AttributeError, OSError, ValueError):
        return sys.stdout
    return open(descriptor, "w", encoding=sys.stdout.encoding or "utf-8", errors="replace", buffering=1)  # noqa: PTH123


def make_display(stream: TextIO) -> Display:
    """A bar where someone looks on, lines otherwise."""
    if stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return BarDisplay(stream)
    return PlainDisplay(stream)


class Watch:
    """A thread that looks at a load run and shows how it goes, until it is stopped.

    name: what to call the run. look: reads a snapshot, None while there is nothing to see. Its errors end the watch
    and never the run. done: called by the thread at its end.
    """

    def __init__(
        self,
        name: str,
        look: Callable[[], Snapshot | None],
        display: Display,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._look = look
        self._display = display
        self._done = done
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="commandbus-progress", daemon=True)
        self._recent: deque[Snapshot] = deque()

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking and take the bar away."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        pause = min(FIRST_LOOK, self._display.interval)
        try:
            with suppress(Exception):  # the database may end before its watch does: that is for the test to tell
                while not self._stopped.wait(pause):
                    began = time.monotonic()
                    self._show(self._look())
                    cost = time.monotonic() - began
                    pause = min(max(self._display.interval, MOST_OF_THE_TIME * cost), LONGEST_PAUSE)
        finally:
            self._display.close()
            self._done()

    def _show(self, now: Snapshot | None) -> None:
        if now is None:
            return
        if now.done >= now.total:
            self._display.close()  # before pytest tells that the test passed
            return
        recent = self._recent
        if not recent or now.seconds < recent[-1].seconds:  # a run begins, the first or the next one of its test
            recent.clear()
            recent.append(Snapshot(now.total, 0, 0, 0, 0, 0.0, 0.0))
        while len(recent) > 1 and now.seconds - recent[0].seconds > PACE_SECONDS:
            recent.popleft()
        self._display.show(self._name, now, pace(recent[0], now))
        recent.append(now)
