"""Workers of a load run on a Dask cluster, as `--cb-cluster` asks for."""

import asyncio
import concurrent.futures
import sys
import sysconfig
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from . import cluster_task
from .cluster_task import Ended, Facts
from .postgres.dsn import Dsn
from .process_pool import CHAOS_MIDDLEWARE, STOPPED, worker_arguments
from .worker_pool import STOP_SECONDS, WorkerDiedError, WorkerPool

if TYPE_CHECKING:
    from distributed import Client

    from .runtime import Runtime

CONNECT_SECONDS = 10.0
ALONE_SECONDS = 30.0  # without any Dask worker, then the run is given up: one that a nanny restarts is back sooner
_LOOK_SECONDS = 1.0


class ClusterPool(WorkerPool):
    """`workers` processes on the hosts of a Dask cluster, each the task of a Dask worker that runs `commandbus worker`.

    A task whose Dask worker dies begins anew on another; its process gives back what it has claimed, or its leases end.
    When there has been no other for ALONE_SECONDS, the workers count as dead.
    """

    _are_processes = True

    def __init__(self, runtime: "Runtime", address: str, *, workers: int, concurrency: int) -> None:
        super().__init__(runtime, workers)
        self._address = address
        self._concurrency = concurrency
        self._client: Client | None = None
        self._ending: Any = None
        self._tasks: list[concurrent.futures.Future[Ended]] = []
        self._logs: list[tuple[str, str]] = []
        self._watching: asyncio.Task[None] | None = None
        self._is_deserted = False

    @property
    def running(self) -> bool:
        """Tell whether its workers were started and not stopped."""
        return bool(self._tasks)

    def is_ready(self) -> bool:
        """Tell whether its tasks go on; only tests with faults ask, and those have no cluster."""
        return self.running and not self._died()

    async def start(self) -> None:
        """Start the workers."""
        arguments = await worker_arguments(self, self._runtime, self._concurrency)
        if self._runtime.rules:
            arguments += ["--middleware", CHAOS_MIDDLEWARE]
        environment = {
            "COMMANDBUS_DSN": Dsn(self._runtime.database.dsn),
            "PGAPPNAME": self._runtime.workers_name,
            "PYTHONUNBUFFERED": "1",
        }
        client = await asyncio.to_thread(self._submit, arguments, environment)
        self._watching = asyncio.create_task(self._watch(client))

    async def _watch(self, client: "Client") -> None:
        """Notice when no Dask worker is left: their tasks would wait for one for ever."""
        seen = time.monotonic()
        while not self._is_deserted:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                is_alone = not await asyncio.to_thread(client.nthreads)
            except OSError:  # the scheduler has gone, which the tasks tell
                is_alone = False
            if not is_alone:
                seen = time.monotonic()
            self._is_deserted = time.monotonic() - seen > ALONE_SECONDS

    def _submit(self, arguments: Sequence[str], environment: Mapping[str, str]) -> "Client":
        from distributed import Event

        self._client = client = _connect(self._address)
        name = f"commandbus {uuid.uuid4()}"
        self._ending = Event(name, client=client)
        executor = client.get_executor(pure=False)
        self._tasks = [
            executor.submit(cluster_task.work, arguments, environment, _own_folders(), name)
            for _ in range(self._workers)
        ]
        return client

    async def stop(self) -> None:
        """Stop the workers gracefully. Errors: WorkerDiedError."""
        died = self._died()
        tasks, self._tasks = self._tasks, []
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        late = await asyncio.to_thread(self._end, tasks)
        self._logs = [(_name(ended), ended.output) for ended in _results(tasks)]
        self._tell(died or _told_of([task for task in tasks if task not in late], expected=STOPPED))
        if late:
            raise WorkerDiedError(
                f"{len(late)} tasks on {self._address} did not end within {STOP_SECONDS:g} s of being asked to; their "
                "Dask workers end them when they notice that nobody waits for them"
            )

    def _end(self, tasks: Sequence["concurrent.futures.Future[Ended]"]) -> set["concurrent.futures.Future[Ended]"]:
        if self._client is None:
            return set()
        try:
            if self._is_deserted:
                return set()
            if not all(task.done() for task in tasks):
                self._ending.set()
            return set(concurrent.futures.wait(tasks, STOP_SECONDS).not_done)
        finally:
            self._client.close()  # what still runs is canceled with it

    def _died(self) -> str:
        if self._is_deserted:
            return (
                f"--cb-cluster={self._address}: no Dask worker has been left for {ALONE_SECONDS:g} s, so nothing runs "
                f"the workers of this test. Start some on each host with `dask worker {self._address}`, and run it "
                "again; the logs of those that ended say why"
            )
        return _told_of(self._tasks)

    def logs(self) -> Sequence[tuple[str, str]]:
        """Return (worker, end of its output)."""
        return [(worker, text) for worker, text in self._logs if text]


async def threads_of(address: str, dsn: str) -> int:
    """Return how many workers the cluster has room for at once, having looked that they can work there.

    Errors: pytest.UsageError for a cluster that cannot be reached, has no Dask workers, or some that cannot work.
    """
    return await asyncio.to_thread(_survey, address, Dsn(dsn))


def _survey(address: str, dsn: Dsn) -> int:
    with _connected(address) as client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError:
            raise pytest.UsageError(
                f"--cb-cluster={address}: the scheduler answers, but has no Dask workers: "
                f"start some on each host with `dask worker {address}`"
            ) from None
        threads = {name: int(facts["nthreads"]) for name, facts in client.scheduler_info()["workers"].items()}
        try:
            found: dict[str, Facts | Exception] = client.run(cluster_task.facts, dsn, on_error="return")
        except Exception as error:  # whatever a Dask worker says that does not know our module
            raise pytest.UsageError(_refusal(address, [f"one of them: {type(error).__name__}: {error}"], dsn)) from None
    problems = [f"{name}{problem}" for name, facts in found.items() if (problem := _problem(facts))]
    if problems:
        raise pytest.UsageError(_refusal(address, problems, dsn))
    return sum(threads.values())


def _problem(facts: Facts | Exception) -> str:
    from commandbus.repositories.workers import library_version

    ours = library_version()
    if isinstance(facts, Exception):
        return f": {type(facts).__name__}: {facts}; it needs pytest-commandbus {ours}"
    if facts.version != ours:
        return f" on {facts.host} has pytest-commandbus {facts.version}, this run {ours}: install the same there"
    if facts.unreachable:
        return f" on {facts.host} cannot reach the test's database: {facts.unreachable}"
    return ""


def _refusal(address: str, problems: Sequence[str], dsn: Dsn) -> str:
    from psycopg.conninfo import conninfo_to_dict

    lines = [f"--cb-cluster={address}: these Dask workers cannot run the workers of this test:", *problems]
    host = str(conninfo_to_dict(dsn).get("host", ""))
    if not host or any(part.startswith("/") or part in ("localhost", "127.0.0.1", "::1") for part in host.split(",")):
        lines.append(
            "The server of this run is reached on this machine only. Name one that all hosts reach by the same DSN: "
            "--cb-postgres=postgresql://user@host/postgres; or use Dask workers of this machine and account"
        )
    return "\n  ".join(lines)


@contextmanager
def _connected(address: str) -> Iterator["Client"]:
    client = _connect(address)
    try:
        yield client
    finally:
        client.close()


def _connect(address: str) -> "Client":
    try:
        from distributed import Client
    except ImportError as error:
        raise pytest.UsageError(
            f"--cb-cluster={address} needs the package distributed: pip install 'pytest-commandbus[cluster]' ({error})"
        ) from None
    try:
        return Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        raise pytest.UsageError(
            f"--cb-cluster={address}: no Dask scheduler answers there ({' '.join(str(error).split())}): start one with "
            "`dask scheduler`, and give the address that it prints"
        ) from None


def _own_folders() -> list[str]:
    """Return the folders of the import path that are not of the Python installation: the application's."""
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders = [str(Path(entry or ".").resolve()) for entry in sys.path]
    return [folder for folder in folders if not any(Path(folder).is_relative_to(part) for part in installed)]


def _results(tasks: Sequence["concurrent.futures.Future[Ended]"]) -> list[Ended]:
    return [task.result() for task in tasks if task.done() and not task.cancelled() and not task.exception()]


def _told_of(tasks: Sequence["concurrent.futures.Future[Ended]"], expected: Sequence[int] = ()) -> str:
    """Say how those tasks ended that should not have, as yet or with this exit code."""
    parts = []
    for task in tasks:
        if not task.done():
            continue
        if task.cancelled():
            parts.append("the cluster gave a worker's task up: its scheduler has gone, or somebody canceled it")
        elif (error := task.exception()) is not None:
            parts.append(f"the cluster could not run a worker's task: {type(error).__name__}: {error}")
        elif (ended := task.result()).code not in expected:
            parts.append(f"{_name(ended)} died by itself with exit code {ended.code}; its output:\n{ended.output}")
    return "\n".join(parts)


def _name(ended: Ended) -> str:
    return f"worker process {ended.pid} on {ended.host}"
