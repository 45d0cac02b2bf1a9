"""What every measured system is asked: install, fill a backlog, work it off, hand over single commands.

Each system is one script of this folder, run as `python -m benchmarks.systems.NAME VERB DSN ...` in an environment of
its own, and uses nothing but itself and this module. A worker says "ready" on its standard output when everything is
imported and connected, waits for a line on its standard input, and works until its input ends. What it learnt it
prints then, as one line of JSON.
"""

import argparse
import asyncio
import json
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence

COMMANDS = "commands"  # single commands whose handler does nothing
PROCESSES = "processes"  # three steps, each with its result kept


class System(ABC):
    """One system under measurement. `latencies` (seconds) is filled by handlers that are given a time of sending."""

    workloads: Sequence[str] = (COMMANDS,)
    started: str  # a query for when the first command or step began, in seconds of the Unix epoch
    finished: str  # a query that is true when nothing is left to do
    ended: str  # a query for when the last command or process ended, as `started`
    has_auditor = False

    def __init__(self) -> None:
        self.latencies: list[float] = []

    @abstractmethod
    async def install(self, dsn: str) -> None:
        """Make the schema."""

    @abstractmethod
    async def fill(self, dsn: str, workload: str, count: int) -> None:
        """Store `count` commands or processes, in bulk where the system can."""

    @abstractmethod
    async def work(self, dsn: str, workload: str, go: "Gate") -> None:
        """Connect, `await go.opens()`, work until `await go.closes()` returns."""

    async def send(self, dsn: str, count: int, pause: float) -> None:
        """Send single commands, `pause` seconds apart, each with the time of sending (see `handled`)."""
        raise NotImplementedError(f"{type(self).__name__} is not measured with single commands: give it a send()")

    async def audit(self, dsn: str) -> None:  # noqa: B027  most systems have no auditor
        """Check what was done, and raise if anything is wrong; called when `has_auditor`."""

    def handled(self, sent: float) -> None:
        """Take the time of sending of a command whose handler begins now."""
        self.latencies.append(time.time() - sent)


class Gate:
    """Opens with the first line of standard input, closes with its end."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._opened, self._closed = asyncio.Event(), asyncio.Event()

    async def opens(self) -> None:
        """Say that the worker is ready, and wait for the start."""
        threading.Thread(target=self._read, daemon=True).start()
        print("ready", flush=True)
        await self._opened.wait()

    async def closes(self) -> None:
        """Wait for the end."""
        await self._closed.wait()

    def _read(self) -> None:
        sys.stdin.readline()
        self._loop.call_soon_threadsafe(self._opened.set)
        sys.stdin.read()
        self._loop.call_soon_threadsafe(self._closed.set)


def main(system: System, loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
    """The command line of a system's script; `loop_factory` makes its event loop, such as uvloop's."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=("install", "fill", "work", "send", "audit", "describe"))
    parser.add_argument("dsn", nargs="?", default="")
    parser.add_argument("--workload", choices=system.workloads, default=system.workloads[0])
    parser.add_argument("--count", type=int, default=1_000)
    parser.add_argument("--pause", type=float, default=0.02, help="seconds between single commands")
    options = parser.parse_args()
    if options.verb == "describe":
        print(json.dumps({name: getattr(system, name) for name in ("started", "finished", "ended", "has_auditor")}))
        return
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_answer(system, options))


async def _answer(system: System, options: argparse.Namespace) -> None:
    match options.verb:
        case "install":
            await system.install(options.dsn)
        case "fill":
            await system.install(options.dsn)
            await _timed(system.fill(options.dsn, options.workload, options.count))
        case "audit":
            await _timed(system.audit(options.dsn))
        case "send":
            await _timed(system.send(options.dsn, options.count, options.pause))
        case "work":
            await system.work(options.dsn, options.workload, Gate())
            print(json.dumps({"latencies": system.latencies}), flush=True)


async def _timed(doing: Awaitable[None]) -> None:
    began = time.perf_counter()
    await doing
    print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)
