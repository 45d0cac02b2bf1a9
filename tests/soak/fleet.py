"""The campaign's worker processes, which are killed and frozen, and replaced as a supervisor would do it.

They are forked from a process that has imported everything, so that a new one costs little.
"""

import os
import signal
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.soak.shop import AWAY, work

STOP_SECONDS = 60.0


@dataclass(eq=False)
class WorkerProcess:
    """One of them; `parent` is held open as long as it may live."""

    process: ForkServerProcess
    parent: Connection
    is_frozen: bool = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid or 0


class Fleet:
    """A number of worker processes on one database; `died` says which ended by themselves."""

    def __init__(self, dsn: str, size: int) -> None:
        self.members: list[WorkerProcess] = []
        self.died: list[str] = []
        self._dsn = dsn
        self._size = size
        self._folder = tempfile.TemporaryDirectory(prefix="cb-soak-")
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(["tests.soak.shop"])

    @property
    def account(self) -> Path:
        """The file in which handlers that ran are written down."""
        return Path(self._folder.name) / "account"

    def start(self) -> None:
        """Start them."""
        while len(self.members) < self._size:
            self._launch()

    def tend(self) -> None:
        """Start another for each that found no server; remember those that ended without a reason."""
        for member in list(self.members):
            code = member.process.exitcode
            if code is not None:
                if code != AWAY:
                    self.died.append(f"worker process {member.pid} ended by itself with code {code}")
                self._replace(member)

    def kill(self, member: WorkerProcess) -> bool:
        """SIGKILL one and replace it; False when it was not running any more."""
        if member not in self.members or member.process.exitcode is not None:
            return False
        member.process.kill()
        member.process.join()
        self._replace(member)
        return True

    def freeze(self, member: WorkerProcess) -> None:
        """SIGSTOP one."""
        member.is_frozen = True
        with suppress(ProcessLookupError):
            os.kill(member.pid, signal.SIGSTOP)

    def thaw(self, member: WorkerProcess) -> None:
        """SIGCONT it."""
        with suppress(ProcessLookupError):
            os.kill(member.pid, signal.SIGCONT)
        member.is_frozen = False

    def stop(self) -> None:
        """End all by SIGTERM; what does not end so is killed, and told."""
        for member in self.members:
            self.thaw(member)
            member.process.terminate()
        for member in self.members:
            member.process.join(STOP_SECONDS)
            if member.process.exitcode is None:
                self.died.append(f"worker process {member.pid} did not end within {STOP_SECONDS:g} s of SIGTERM")
                member.process.kill()
                member.process.join()
            elif member.process.exitcode not in (0, AWAY, -signal.SIGTERM):  # before it was ready to: no handler yet
                self.died.append(f"worker process {member.pid} ended with code {member.process.exitcode}")
            self._close(member)
        self.members.clear()

    def close(self) -> None:
        """End whatever still runs, and remove the account."""
        for member in self.members:
            member.process.kill()
            member.process.join()
            self._close(member)
        self.members.clear()
        self._folder.cleanup()

    def _launch(self) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=work, args=(self._dsn, str(self.account), theirs), daemon=True)
        process.start()
        theirs.close()
        self.members.append(WorkerProcess(process, ours))

    def _replace(self, member: WorkerProcess) -> None:
        self.members.remove(member)
        self._close(member)
        self._launch()

    @staticmethod
    def _close(member: WorkerProcess) -> None:
        member.parent.close()
        member.process.close()
