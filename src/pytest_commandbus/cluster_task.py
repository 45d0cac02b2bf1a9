"""What runs on the Dask workers of `--cb-cluster`: `commandbus worker`, as a process that ends with its task."""

import asyncio
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from .postgres.dsn import Dsn
from .worker_process import GRACE

LOOK_SECONDS = 0.5
GRACE_SECONDS = 25.0
"""A worker process that was asked to stop gets so long before it is killed."""
_LOG_BYTES = 8000
_CONNECT_SECONDS = 10


class Facts(NamedTuple):
    """What a Dask worker has to offer. unreachable: why it cannot reach the database, "" when it can."""

    host: str
    version: str
    python: str
    unreachable: str


class Ended(NamedTuple):
    """How a worker process ended: its exit code (below 0: the signal that killed it) and the end of its output."""

    host: str
    pid: int
    code: int
    output: str


async def facts(dsn: Dsn) -> Facts:
    """Look whether workers of the test run can work here."""
    return await asyncio.to_thread(_facts, dsn)  # a Dask worker's loop must go on meanwhile


def _facts(dsn: Dsn) -> Facts:
    from commandbus.repositories.workers import library_version

    return Facts(socket.gethostname(), library_version(), platform.python_version(), _unreachable(dsn))


def work(arguments: Sequence[str], environment: Mapping[str, str], folders: Sequence[str], ending: str) -> Ended:
    """Run `commandbus worker` until it ends, the event `ending` is set, or nobody waits for this task any more.

    folders: of the test run's import path; those that are on this host too are searched first. When this Dask worker
    closes or dies, the process stops gracefully, and the task begins anew elsewhere.
    """
    from distributed import Event, Reschedule

    found = [folder for folder in folders if Path(folder).is_dir()]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest_commandbus.worker_process", "worker", *arguments],
            stdin=subprocess.PIPE,  # its end tells the process that this one has ended
            stdout=output,
            stderr=output,
            env={
                **os.environ,
                **environment,
                "PYTHONPATH": os.pathsep.join([*found, *filter(None, sys.path)]),
                GRACE: str(GRACE_SECONDS),
            },
            process_group=0,
        )
        try:
            is_moving = _watch(process, Event(ending))
            _stop(process)
            if is_moving:
                raise Reschedule
            return Ended(socket.gethostname(), process.pid, process.returncode, _tail(output))
        finally:
            process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


def _watch(process: "subprocess.Popen[bytes]", ending: "Event") -> bool:  # type: ignore[name-defined]  # noqa: F821
    """Wait until the process is to stop or has ended; tell whether it is to go on elsewhere."""
    from distributed import get_worker
    from distributed.core import Status

    worker = get_worker()
    key = worker.get_current_task()
    while process.poll() is None:
        if worker.status not in (Status.running, Status.paused):
            return True
        task = worker.state.tasks.get(key)
        if task is None or task.state == "cancelled":  # the test run has gone, or gave up
            return False
        if ending.wait(timeout=LOOK_SECONDS):
            return False
    return False


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _tail(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _LOG_BYTES))
    return output.read().decode(errors="replace").strip()


def _unreachable(dsn: Dsn) -> str:
    import psycopg

    try:
        psycopg.connect(dsn, connect_timeout=_CONNECT_SECONDS).close()
    except psycopg.Error as error:
        return " ".join(str(error).split())
    return ""
