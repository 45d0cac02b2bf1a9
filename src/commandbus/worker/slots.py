"""The handlers that run at once: a fixed number of slots that work through what was claimed.

A slot is one task that runs handler after handler, so that one which never suspends costs no task of its own. A
handler that changes context variables retires its slot, so that the next one does not see them.
"""

import asyncio
import contextvars
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any

from commandbus._core.queue_sql import Claimed
from commandbus.executor import Executor, Run
from commandbus.outcome import Outcome

_YIELD_AFTER = 0.005  # seconds of handlers that never suspend, then the loop gets its turn
_WEIGHT = 0.2  # of the newest duration in the running mean of its command type


class Pending:
    """A claimed command that was not started yet. Times are the loop's."""

    __slots__ = ("claimed", "claimed_at", "leased_at", "run")

    def __init__(self, claimed: Claimed, run: Run, claimed_at: float) -> None:
        self.claimed = claimed
        self.run = run
        self.claimed_at = claimed_at
        self.leased_at = claimed_at


class Slots:
    """Runs pending commands, at most `size` at a time, and hands each outcome to `on_outcome`."""

    def __init__(self, size: int, executor: Executor, on_outcome: Callable[[Pending, Outcome | None], None]) -> None:
        self.pending: deque[Pending] = deque()
        self.running: dict[asyncio.Task[None], Pending] = {}
        self.durations: dict[str, float] = {}  # seconds by command type, running mean
        self.by_type: Counter[str] = Counter()  # of what is in hand
        self.size = size
        self._executor = executor
        self._on_outcome = on_outcome
        self._tasks: set[asyncio.Task[None]] = set()
        self._lingering: set[asyncio.Task[None]] = set()  # slots whose thread outlives its attempt
        self._idle = asyncio.Event()
        self._idle.set()
        self._context = contextvars.copy_context()

    @property
    def in_hand(self) -> int:
        """How many commands are running, or waiting to, or still have a thread."""
        return len(self.pending) + len(self.running) + len(self._lingering)

    def add(self, batch: list[Pending]) -> None:
        """Queue commands, and start slots for them."""
        self.pending.extend(batch)
        self.by_type.update(pending.claimed.command_type for pending in batch)
        for _ in range(min(len(batch), self.size - len(self._tasks))):
            self._start_slot()

    def take_pending(self) -> list[Claimed]:
        """Give up what was not started."""
        claims = [pending.claimed for pending in self.pending]
        self.pending.clear()
        self.by_type.subtract(claimed.command_type for claimed in claims)
        return claims

    @property
    def has_unmeasured(self) -> bool:
        """Whether a command in hand is of a type whose duration is not known yet."""
        return any(count > 0 and name not in self.durations for name, count in self.by_type.items())

    def cancel_overdue(self, now: float) -> None:
        """Cancel every handler whose deadline has passed."""
        for task, pending in list(self.running.items()):
            if now >= pending.run.deadline and not pending.run.is_timed_out:
                pending.run.is_timed_out = True
                task.cancel()

    def cancel_all(self) -> None:
        """Cancel every running handler; their commands are to be released. Threads are left to themselves."""
        for task, pending in list(self.running.items()):
            pending.run.is_released = True
            task.cancel()
        for task in list(self._lingering):
            task.cancel()

    async def drain(self) -> None:
        """Wait until no slot works any more."""
        await self._idle.wait()

    def _start_slot(self) -> None:
        work: Coroutine[Any, Any, None] = self._work()
        task = asyncio.get_running_loop().create_task(work, context=self._context.copy())
        self._tasks.add(task)
        self._idle.clear()
        task.add_done_callback(self._slot_ended)

    def _slot_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self.pending and len(self._tasks) < self.size:
            self._start_slot()
        elif not self._tasks:
            self._idle.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    async def _work(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a slot runs as a task")
        clean = contextvars.copy_context()
        yielded = perf_counter()
        while self.pending:
            pending = self.pending.popleft()
            self.running[task] = pending
            started = perf_counter()
            try:
                outcome = await self._executor.execute(pending.run)
            finally:
                del self.running[task]
            ended = perf_counter()
            self._measure(pending.claimed.command_type, ended - started)
            self.by_type[pending.claimed.command_type] -= 1
            self._on_outcome(pending, outcome)
            thread = pending.run.thread
            if thread is not None and not thread.done() and not pending.run.is_released:
                await self._linger(task, pending, thread)
            if contextvars.copy_context() != clean:
                return
            if ended - yielded > _YIELD_AFTER:
                await asyncio.sleep(0)
                yielded = perf_counter()

    async def _linger(self, task: asyncio.Task[None], pending: Pending, thread: asyncio.Future[Any]) -> None:
        """Keep the slot until the thread has returned, then tell that there is room."""
        self._lingering.add(task)
        try:
            await asyncio.wait([thread])
        finally:
            self._lingering.discard(task)
        self._on_outcome(pending, None)

    def _measure(self, command_type: str, seconds: float) -> None:
        mean = self.durations.get(command_type)
        self.durations[command_type] = seconds if mean is None else mean + _WEIGHT * (seconds - mean)
