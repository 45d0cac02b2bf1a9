"""Workers in operating-system processes of their own, for a test."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from . import statements
from .application import path_of
from .connections import KEPT, MOST_FOR_HANDLERS
from .faults.middleware import DESK, FAULT_MIDDLEWARE
from .worker_pool import STOP_SECONDS, TaskPool, WorkerDiedError, WorkerPool

if TYPE_CHECKING:
    from .runtime import Runtime

CHAOS_MIDDLEWARE = "pytest_commandbus.behavior:chaos_middleware"
_PASSED_ON = {"visibility_timeout", "poll_interval"}  # options of Worker that the command line has too
STOPPED = (0, -signal.SIGTERM)  # by itself, or before it was ready to
_READY = "worker ready:"  # what one says when all its workers are registered
_LOG_TAIL = 8000
_REPORTED_TAIL = 2000


class ProcessPool(WorkerPool):
    """`workers` processes, each `commandbus worker` for all domains of the App."""

    _are_processes = True

    def __init__(self, runtime: "Runtime", *, workers: int, concurrency: int, options: dict[str, Any]) -> None:
        super().__init__(runtime, workers)
        self._concurrency = concurrency
        self._options = _command_line(options)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lock = threading.RLock()  # faults replace processes from a thread of their own
        self._command: list[str] = []
        self._launched: dict[int, tuple[str, float]] = {}
        self._expected: set[int] = set()
        self._folder: Path | None = None
        self._log_files: dict[int, Path] = {}
        self._logs: list[tuple[str, str]] = []
        self._shown: set[int] = set()

    @property
    def running(self) -> bool:
        """Tell whether its workers were started and not stopped."""
        return bool(self._processes)

    @property
    def pids(self) -> list[int]:
        """The process ids of the workers that run."""
        return [process.pid for process in self._processes if process.poll() is None]

    async def start(self) -> None:
        """Start the workers."""
        arguments = await worker_arguments(self, self._runtime, self._concurrency)
        faults = self._runtime.faults
        if faults is not None:
            await faults.begin()
        self._command = [
            sys.executable,
            "-m",
            "pytest_commandbus.worker_process",
            "worker",
            *arguments,
            *self._options,
        ]
        if faults is not None:
            self._command += ["--middleware", FAULT_MIDDLEWARE]
        if self._runtime.rules:
            self._command += ["--middleware", CHAOS_MIDDLEWARE]
        self._folder = Path(tempfile.mkdtemp(prefix="cb-workers-"))
        if faults is not None:
            faults.join(self)
        for _ in range(self._workers):
            self._processes.append(self._launch())

    def alive(self) -> list[int]:
        """Return the process ids of the workers that run."""
        return self.pids

    def replace(self, pid: int) -> bool:
        """SIGKILL a worker, which the test then expects, and start another in its place; False when there is none."""
        with self._lock:
            place = next((n for n, p in enumerate(self._processes) if p.pid == pid and p.poll() is None), None)
            if place is None:
                return False
            self._expected.add(pid)
            self._processes[place].kill()
            self._restart(place)
            return True

    def signal(self, pid: int, number: int) -> bool:
        """Send a worker a signal; False when there is none."""
        with self._lock:
            process = next((p for p in self._processes if p.pid == pid and p.poll() is None), None)
            if process is None:
                return False
            process.send_signal(number)
            return True

    def application(self, pid: int) -> str | None:
        """Return the application_name of a worker's sessions in a test with faults."""
        return self._launched[pid][0] if pid in self._launched else None

    def tend(self) -> None:
        """Start those again that a fault kept from getting ready."""
        with self._lock:
            for place, process in enumerate(self._processes):
                if process.poll() is not None and self._was_kept(process):
                    self._restart(place)

    def is_ready(self) -> bool:
        """Tell whether every worker has told that it is."""
        with self._lock:
            return all(_READY in self._log(process.pid) for process in self._processes)

    async def kill(self, index: int = 0) -> None:
        """SIGKILL a worker (counted from 0), which the test then expects; its leases need not be waited for."""
        process = self._processes[index]
        self._expected.add(process.pid)
        process.kill()
        await asyncio.to_thread(process.wait)
        await self._tell_gone(process.pid)

    async def stop(self) -> None:
        """Stop the workers gracefully by SIGTERM. Errors: WorkerDiedError."""
        if self._runtime.faults is not None:
            await self._runtime.faults.leave(self)
        with self._lock:
            processes, self._processes = self._processes, []
        died = self._dead(processes)
        for process in processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        late = [process for process in processes if not await _ended(process)]
        for process in late:
            process.kill()
            await asyncio.to_thread(process.wait)
            await self._tell_gone(process.pid)
        for process in processes:
            if process.stdin is not None:
                process.stdin.close()
        died = died or self._dead([p for p in processes if p not in late and p.returncode not in STOPPED])
        self._logs = [
            (f"worker process {p.pid}", _tail(self._log(p.pid), _REPORTED_TAIL))
            for p in processes
            if p.pid not in self._shown
        ]
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._tell(died)
        if late:
            raise WorkerDiedError(
                f"{len(late)} worker processes did not stop within {STOP_SECONDS:g} s of SIGTERM, "
                "and were killed: a handler of theirs does not end, see their output in the report"
            )

    def _died(self) -> str:
        return self._dead(self._processes)

    def logs(self) -> Sequence[tuple[str, str]]:
        """Return (worker, end of its output)."""
        return [(worker, text) for worker, text in self._logs if text.strip()]

    def _launch(self) -> "subprocess.Popen[bytes]":
        number = len(self._log_files) + 1
        application = f"cb-worker-{os.getpid()}-{id(self)}-{number}"
        faults = self._runtime.faults
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),  # noqa: PTH109  '' is the directory
            "PYTHONUNBUFFERED": "1",
            "COMMANDBUS_DSN": str(self._runtime.database.dsn),
            "PGAPPNAME": self._runtime.workers_name,
        }
        if faults is not None:
            environment |= {"COMMANDBUS_DSN": faults.worker_dsn(application), DESK: faults.desk_path}
        log = (self._folder or Path()) / f"{number}.log"
        launched = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environment,
                process_group=0,  # no Ctrl-C reaches it; when pytest dies, even a stopped process is ended
            )
        self._log_files[process.pid] = log
        self._launched[process.pid] = (application, launched)
        return process

    def _restart(self, place: int) -> None:
        process = self._processes[place]
        process.wait()
        if process.stdin is not None:
            process.stdin.close()
        self._processes[place] = self._launch()

    def _was_kept(self, process: "subprocess.Popen[bytes]") -> bool:
        """Tell whether a process ended before it was ready, for a fault of the server or the network."""
        faults = self._runtime.faults
        if faults is None or process.pid in self._expected or _READY in self._log(process.pid):
            return False
        return faults.was_disturbed_since(self._launched[process.pid][1])

    def _dead(self, processes: Sequence["subprocess.Popen[bytes]"]) -> str:
        parts = []
        for process in list(processes):
            code = process.poll()
            if code is not None and process.pid not in self._expected and not self._was_kept(process):
                how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
                output = _tail(self._log(process.pid), _LOG_TAIL)
                self._shown.add(process.pid)
                parts.append(f"worker process {process.pid} died by itself {how}; its output:\n{output}")
        return "\n".join(parts)

    def _log(self, pid: int) -> str:
        try:
            return self._log_files[pid].read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    async def _tell_gone(self, pid: int) -> None:
        async with self._runtime.pool.connection() as connection:
            await connection.execute(statements.WORKER_IS_GONE, {"pid": pid, "host": socket.gethostname()})


def make_pool(
    runtime: "Runtime",
    workers: int,
    concurrency: int,
    processes: bool | None,
    cluster: str | None,
    options: dict[str, Any],
) -> WorkerPool:
    """Return a pool of the kind that is asked for, or that suits the test (None): see Runtime.worker_pool."""
    if cluster is not None:
        from .cluster import ClusterPool

        return ClusterPool(runtime, cluster, workers=workers, concurrency=concurrency)
    if processes is None:
        processes = runtime.faults is not None and runtime.app_path is not None
    make = ProcessPool if processes else TaskPool
    return make(runtime, workers=workers, concurrency=concurrency, options=options)


async def worker_arguments(pool: WorkerPool, runtime: "Runtime", concurrency: int) -> list[str]:
    """Return what each process of the pool tells `commandbus worker`, having stored what chaos is told.

    Errors: pytest.UsageError when the App cannot be imported by path, or the server has no room for all connections.
    """
    app = runtime.require_app("cb_worker_pool")
    path = path_of(app, runtime.item.config)
    domains = len(app.domains(runtime.pool))
    size = await pool.size_pool(domains * (KEPT + min(concurrency, MOST_FOR_HANDLERS)))
    await runtime.store_rules()
    return [path, f"--concurrency={concurrency}", f"--pool-size={size}"]


def _tail(text: str, longest: int) -> str:
    """Return the last lines of a log, with how many it leaves out."""
    lines = text.rstrip().splitlines()
    kept: list[str] = []
    while lines and (not kept or longest > len(lines[-1])):
        longest -= len(lines[-1]) + 1
        kept.insert(0, lines.pop())
    return "\n".join([f"({len(lines)} earlier lines left out)", *kept] if lines else kept)


def _command_line(options: dict[str, Any]) -> list[str]:
    unknown = sorted(set(options) - _PASSED_ON)
    if unknown:
        raise pytest.UsageError(
            f"cb_worker_pool: {', '.join(unknown)} cannot be handed to worker processes, only "
            f"{', '.join(sorted(_PASSED_ON))}: leave it out, or leave processes=True out"
        )
    words = [["--" + name.replace("_", "-"), str(value)] for name, value in options.items()]
    return [word for pair in words for word in pair]


async def _ended(process: "subprocess.Popen[bytes]") -> bool:
    try:
        await asyncio.to_thread(process.wait, STOP_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return True
