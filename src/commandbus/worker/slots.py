"""The handlers that run at once: a fixed number of slots that work through what was claimed.

A slot is one task that runs handler after handler, so that one which never suspends costs no task of its own. A
handler that changes context variables retires its slot, so that the next one does not see them.
"""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Sequence
from time import perf_counter
from typing import Any

from commandbus._core.queue_sql import Claimed
from commandbus.executor import Executor
from commandbus.outcome import Outcome
from commandbus.worker.lanes import Lane, Pending

_YIELD_AFTER = 0.005  # seconds of handlers that never suspend, then the loop gets its turn


class Slots:
    """Runs the lanes' pending commands, at most `size` at a time, and hands each outcome to `on_outcome`."""

    def __init__(
        self,
        size: int,
        lanes: Sequence[Lane],
        executor: Executor,
        on_outcome: Callable[[Pending, Outcome | None], None],
    ) -> None:
        self.running: dict[asyncio.Task[None], Pending] = {}
        self.size = size
        self.lanes = tuple(lanes)
        self._executor = executor
        self._on_outcome = on_outcome
        self._tasks: set[asyncio.Task[None]] = set()
        self._lingering: set[asyncio.Task[None]] = set()  # slots whose thread outlives its attempt
        self._idle = asyncio.Event()
        self._idle.set()
        self._context = contextvars.copy_context()
        self._started = 0  # handlers, by any slot

    def add(self, lane: Lane, batch: list[Pending]) -> None:
        """Queue commands in a lane, and start slots for them."""
        lane.add(batch)
        for _ in range(min(len(batch), self.size - len(self._tasks))):
            self._start_slot()

    def take_pending(self) -> list[Claimed]:
        """Give up what was not started."""
        return [claimed for lane in self.lanes for claimed in lane.take_pending()]

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
        if len(self._tasks) < self.size and any(lane.can_start for lane in self.lanes):
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
        while (pending := self._next()) is not None:
            lane = pending.lane
            lane.running += 1
            self._started += 1
            number = self._started
            self.running[task] = pending
            try:
                ended = await self._run(task, pending)
            finally:
                lane.running -= 1
            if contextvars.copy_context() != clean:
                return
            if self._started != number:  # another slot began meanwhile: the loop had its turn
                yielded = ended
            elif ended - yielded > _YIELD_AFTER:
                await asyncio.sleep(0)
                yielded = perf_counter()

    async def _run(self, task: asyncio.Task[None], pending: Pending) -> float:
        """Run one command to its end; returns when its handler ended, by perf_counter."""
        started = perf_counter()
        try:
            outcome = await self._executor.execute(pending.run)
        finally:
            del self.running[task]
        ended = perf_counter()
        pending.seconds = ended - started
        pending.lane.ended(pending.claimed.command_type, pending.seconds)
        self._on_outcome(pending, outcome)
        thread = pending.run.thread
        if thread is not None and not thread.done() and not pending.run.is_released:
            await self._linger(task, pending, thread)
        return ended

    def _next(self) -> Pending | None:
        """Take the command that was claimed first among the lanes that may start one."""
        first: Lane | None = None
        for lane in self.lanes:
            if lane.can_start and (first is None or lane.pending[0].claimed_at < first.pending[0].claimed_at):
                first = lane
        return None if first is None else first.pending.popleft()

    async def _linger(self, task: asyncio.Task[None], pending: Pending, thread: asyncio.Future[Any]) -> None:
        """Keep the slot until the thread has returned, then tell that there is room."""
        self._lingering.add(task)
        try:
            await asyncio.wait([thread])
        finally:
            self._lingering.discard(task)
        self._on_outcome(pending, None)
