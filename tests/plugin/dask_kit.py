"""A real Dask cluster on the loopback: a scheduler and its workers, each a process that ends with the test."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

LONGEST = 60.0
LOOPBACK = "127.0.0.1"


class Cluster:
    """The processes of a cluster. prefix: of each command line, such as what enters a network namespace."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self.address = ""
        self.workers: list[psutil.Process] = []
        self._ever = 0

    def start_scheduler(self, host: str = LOOPBACK, prefix: Sequence[str] = ()) -> str:
        """Start the scheduler; return its address."""
        file = self._folder / "scheduler.json"
        self._start("scheduler", "--host", host, "--port", "0", "--scheduler-file", str(file), host=host, prefix=prefix)
        deadline = time.monotonic() + LONGEST
        while not self.address:
            with suppress(OSError, ValueError):
                self.address = json.loads(file.read_text())["address"]
            self._look(deadline)
        return self.address

    def start_worker(self, host: str = LOOPBACK, threads: int = 2, prefix: Sequence[str] = ()) -> None:
        """Start a Dask worker."""
        options = ("--nthreads", str(threads), "--host", host, "--no-nanny", "--memory-limit", "0")
        self._ever += 1
        folder = self._folder / f"worker{self._ever}"
        self.workers.append(
            self._start("worker", self.address, *options, "--local-directory", str(folder), host=host, prefix=prefix)
        )

    def until_ready(self) -> None:
        """Wait until the scheduler knows all of them."""
        deadline = time.monotonic() + LONGEST
        while self.logs().count("Registered to") < self._ever:
            self._look(deadline)

    def forget_dead(self) -> int:
        """Count no more on those that were killed; return how many they are."""
        dead = [process for process in self._processes if process.poll() is not None]
        self._processes = [process for process in self._processes if process not in dead]
        self.workers = [worker for worker in self.workers if worker.pid not in {process.pid for process in dead}]
        return len(dead)

    def logs(self) -> str:
        """Return all that they have said."""
        return "\n".join(f"{log.name}:\n{log.read_text()}" for log in sorted(self._folder.glob("*.log")))

    def _start(self, *words: str, host: str, prefix: Sequence[str]) -> psutil.Process:
        log = (self._folder / f"{words[0]}{self._ever}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "dask", *words, "--dashboard-address", f"{host}:0"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder,
            )  # fmt: skip
        self._processes.append(process)
        return psutil.Process(process.pid)

    def _look(self, deadline: float) -> None:
        if time.monotonic() > deadline or any(process.poll() is not None for process in self._processes):
            raise AssertionError(f"the cluster did not start\n{self.logs()}")
        time.sleep(0.05)

    def stop(self) -> None:
        """End all of them."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Lend an empty cluster, without a scheduler as yet."""
    folder.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(folder)
    try:
        yield cluster
    finally:
        cluster.stop()
