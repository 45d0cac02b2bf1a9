"""Worker processes of this application, held by whoever starts them: they stop when it lets go of them, or dies."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from commandbus.cli.supervising import Child, Ended

_STOP_SECONDS = 60.0


class WorkerError(Exception):
    """A worker process ended before it was ready; what it said stands on stderr."""


class WorkerProcesses:
    """`count` processes of `python -m tests.e2e.app.worker`, each with a worker for each domain."""

    def __init__(self, dsn: str, count: int, concurrency: int) -> None:
        self._environment = {**os.environ, "COMMANDBUS_DSN": dsn}  # others could read a command line
        self._command = [sys.executable, "-m", "tests.e2e.app.worker", "--concurrency", str(concurrency)]
        self._children = [Child(f"worker process {number}") for number in range(1, count + 1)]
        self.lives: list[asyncio.Task[Ended]] = []

    async def start(self) -> None:
        """Start them all, and wait until each is ready. Raises WorkerError."""
        self.lives = [asyncio.create_task(child.live(self._command, self._environment)) for child in self._children]
        for child, life in zip(self._children, self.lives, strict=True):
            ready = asyncio.create_task(child.ready.wait())
            await asyncio.wait([ready, life], return_when=asyncio.FIRST_COMPLETED)
            ready.cancel()
            if life.done():
                raise WorkerError(f"{child.name}: {life.result()} before it was ready")

    async def stop(self) -> list[Ended]:
        """Let them stop gracefully, and end at once those that take too long; returns how each ended."""
        for child in self._children:
            child.let_go()
        if self.lives:
            await asyncio.wait(self.lives, timeout=_STOP_SECONDS)
        for child in self._children:
            child.kill()
        return list(await asyncio.gather(*self.lives))


@asynccontextmanager
async def worker_processes(dsn: str, count: int, concurrency: int = 10) -> AsyncIterator[WorkerProcesses]:
    """Run worker processes while the block does; none for 0."""
    workers = WorkerProcesses(dsn, count, concurrency)
    try:
        await workers.start()
        yield workers
    finally:
        await workers.stop()
