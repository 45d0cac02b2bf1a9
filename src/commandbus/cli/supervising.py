"""Keep a number of worker processes running: start them, start again what died, stop them all.

Each child is held by a socket pair. It writes one line on its end when it is ready, another before it ends because its
workers were asked to stop (then no other takes its place), and stops gracefully when it
reads the end of the other one: when the supervisor closes it, and as well when the supervisor was killed.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from commandbus.cli.signals import Signals
from commandbus.cli.supervised import DONE, READY

_log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.5  # seconds before the first restart, doubled by each further one
_LONGEST_PAUSE = 60.0
_STEADY = 60.0  # seconds of life after which a process that dies is started again as if for the first time


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended: its exit code (below 0: the signal that killed it), `why` in words, after `lived` seconds.

    pid is None for one that could not be started. is_done: its workers were asked to stop, so no other takes its place.
    """

    pid: int | None
    code: int
    why: str
    was_ready: bool
    lived: float
    is_done: bool = False

    def __str__(self) -> str:
        if self.pid is None:
            return f"cannot be started: {self.why}"
        return f"pid {self.pid} ended after {self.lived:.1f} s: {self.why}"


class Child:
    """One of the supervised processes, through all its lives."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ready = asyncio.Event()
        self._line: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """The process's id, None while there is none."""
        return None if self._process is None else self._process.pid

    async def live(self, command: Sequence[str], environment: Mapping[str, str]) -> Ended:
        """Start the process and wait for its end."""
        began = asyncio.get_running_loop().time()
        ours, theirs = socket.socketpair()
        reader, self._line = await asyncio.open_connection(sock=ours)  # first: let_go counts from here on
        with theirs:
            line = theirs.fileno()
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *command, "--supervised", str(line), pass_fds=[line], env=environment
                )
            except OSError as error:
                self.let_go()
                return Ended(None, 1, str(error), False, 0.0)
        _log.info("%s: pid %s started", self.name, self._process.pid)
        if await _said(reader) == READY:
            self.ready.set()
        code = await self._process.wait()
        is_done = code == 0 and await _said(reader) == DONE
        self.let_go()
        lived = asyncio.get_running_loop().time() - began
        ended = Ended(self._process.pid, code, _how(code), self.ready.is_set(), lived, is_done)
        self._process = None
        self.ready.clear()
        return ended

    def let_go(self) -> None:
        """Close its line: the process stops gracefully. Once more changes nothing."""
        if self._line is not None:
            self._line.close()

    def kill(self) -> None:
        """End the process at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()


class Supervisor:
    """Keeps `count` processes of `command` running until a signal.

    The first process starts alone, so that what is wrong with all of them is told once. `announce` is called with the
    pids when all are ready for the first time; a process that ends before that, without having been ready itself, ends
    the supervisor too. Later ones are started again for ever.
    """

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        announce: Callable[[Sequence[int]], None],
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._command = command
        self._environment = environment
        self._announce = announce
        self._children = [Child(f"process {number} of {count}") for number in range(1, count + 1)]
        self._stopping = asyncio.Event()
        self._announced = False
        self._exit_code = 0

    async def run(self) -> int:
        """Supervise; returns the exit code: 0 after a graceful stop of all, else that of the first that failed."""
        with Signals(self._asked_to_stop, self._at_once):
            keepers = [asyncio.create_task(self._keep(self._children[0]))]
            if await self._are_ready(self._children[:1]):
                keepers += [asyncio.create_task(self._keep(child)) for child in self._children[1:]]
                if await self._are_ready(self._children):
                    self._announced = True
                    self._announce([child.pid for child in self._children if child.pid is not None])
            await asyncio.gather(*keepers)
        return self._exit_code

    async def _keep(self, child: Child) -> None:
        restarts = 0
        while not self._stopping.is_set():
            end = await child.live(self._command, self._environment)
            if self._stopping.is_set() or end.is_done:
                self._note_last(child, end)
                return
            if not (end.was_ready or self._announced):
                _log.error("%s: %s; it was never ready: mend what it says above, and start again", child.name, end)
                self._exit_code = max(end.code, 0) or 1
                self._stop()
                return
            restarts = 0 if end.lived >= _STEADY else restarts
            pause = backoff(restarts)
            restarts += 1
            _log.warning("%s: %s; started again in %.1f s", child.name, end, pause)
            await _wait(self._stopping, pause)

    def _note_last(self, child: Child, end: Ended) -> None:
        _log.log(logging.WARNING if end.code else logging.INFO, "%s: %s", child.name, end)
        if end.code and not self._exit_code:
            self._exit_code = max(end.code, 0) or 1

    async def _are_ready(self, children: Sequence[Child]) -> bool:
        """Wait until all of them are ready; False when the supervisor stops instead."""
        stopping = asyncio.create_task(self._stopping.wait())
        ready = asyncio.create_task(_all_ready(children))
        await asyncio.wait([stopping, ready], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        ready.cancel()
        return not self._stopping.is_set()

    def _asked_to_stop(self, number: signal.Signals) -> None:
        _log.info(
            "%s: stopping the processes once their running handlers have ended; a second signal ends them at once",
            number.name,
        )
        self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        for child in self._children:
            child.let_go()

    def _at_once(self, number: signal.Signals) -> None:
        _log.warning("%s again: ending at once; what runs is tried again when its lease has run out", number.name)
        for child in self._children:
            child.kill()


def backoff(restarts: int) -> float:
    """Seconds to wait before a restart, after this many restarts in short order."""
    return min(_FIRST_PAUSE * 2.0 ** min(restarts, 30), _LONGEST_PAUSE)


def _how(code: int) -> str:
    return f"killed by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"exit code {code}"


async def _all_ready(children: Sequence[Child]) -> None:
    for child in children:
        await child.ready.wait()


async def _said(reader: asyncio.StreamReader) -> bytes:
    """Wait for the next line that a process writes; empty when it ends without one."""
    try:
        return await reader.readline()
    except ConnectionError:
        return b""


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
