"""`make load`: many clients preview, start and look while a large batch runs; prints how long they waited.

It brings its own database, web server and worker processes, asks only those, and ends by itself.
"""

import argparse
import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from .asking import Answer, Caller

TOKEN = "token-of-the-load"
MOST = 1000
ROUND = 2.5  # seconds that a client pauses in one round of its requests
GOLDEN = 0.618  # spreads any number of clients evenly over a round
TARGETS = {"status": 0.5, "preview": 0.2}  # seconds, 95 of 100


class Clients:
    """What the clients do, each over a connection of its own; what each request took is kept by name."""

    def __init__(self) -> None:
        self.took: defaultdict[str, list[float]] = defaultdict(list)
        self.refused: defaultdict[str, int] = defaultdict(int)

    async def ask(self, caller: Caller, name: str, method: str, path: str, body: Any = None) -> Answer:
        """Ask once, and keep the time."""
        began = time.perf_counter()
        answer = await caller.ask(method, path, body)
        self.took[name].append(time.perf_counter() - began)
        if answer.status >= 400:
            self.refused[name] += 1
        return answer

    async def start(self, caller: Caller, first: int, count: int) -> str:
        """Preview and start a batch; returns its id."""
        asked: dict[str, Any] = {"lead_ids": list(range(first, first + count))}
        quote = await self.ask(caller, "preview", "POST", "/api/batch/preview", asked)
        asked["accepted_cost"] = quote.value["total_cost"]
        begun = await self.ask(caller, "start", "POST", "/api/batch/start", asked)
        return str(begun.value["batch_id"])

    async def one(self, caller: Caller, number: int, leads: int, batch_id: str, stop: asyncio.Event) -> None:
        """What a user does, until it is enough: looks often, previews at times, starts a small batch now and then."""
        await asyncio.sleep(ROUND * (number * GOLDEN % 1))  # users do not ask in step
        while not stop.is_set():
            for _ in range(4):
                await self.ask(caller, "status", "GET", f"/api/batch/{batch_id}/status")
                await asyncio.sleep(0.5)
            asked = {"lead_ids": list(range(1 + number, 1 + number + leads))}
            await self.ask(caller, "preview", "POST", "/api/batch/preview", asked)
            if number % 10 == 0:
                await self.start(caller, 2000 + number, 1)
            await asyncio.sleep(0.5)


def percentile(values: list[float], percent: float) -> float:
    """The value below which so many of 100 are."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


async def drive(port: int, clients: int, leads: int) -> bool:
    """Start a batch of so many leads, look at it with so many clients until it ends; print the table."""
    users, stop = Clients(), asyncio.Event()
    async with contextlib.AsyncExitStack() as open_calls:
        first, *callers = [await open_calls.enter_async_context(Caller(port, TOKEN)) for _ in range(1 + clients)]
        batch_id = await users.start(first, 1, leads)
        began = time.monotonic()
        tasks = [
            asyncio.create_task(users.one(caller, number, leads, batch_id, stop))
            for number, caller in enumerate(callers)
        ]
        state: dict[str, Any] = {"status": "PROCESSING"}
        while state["status"] in ("PENDING", "PROCESSING"):
            await asyncio.sleep(1)
            state = (await first.ask("GET", f"/api/batch/{batch_id}/status")).value
            if time.monotonic() - began > 600:
                raise TimeoutError(f"the batch has not ended in 10 minutes: {state}")
        took = time.monotonic() - began
        stop.set()
        await asyncio.gather(*tasks)
    print(f"{leads} leads, {clients} clients: the batch is {state['status']} after {took:.1f} s")
    print(f"{'':10}{'requests':>9}{'refused':>9}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}  target p95")
    is_good = True
    for name in ("preview", "start", "status"):
        times = users.took[name]
        row = "".join(f"{percentile(times, percent) * 1000:9.0f}" for percent in (50, 95, 99))
        target = TARGETS.get(name)
        is_met = target is None or percentile(times, 95) <= target
        is_good = is_good and is_met
        verdict = "" if target is None else f"{target * 1000:.0f} ms, {'met' if is_met else 'missed'}"
        print(f"{name:10}{len(times):9}{users.refused[name]:9}{row}  {verdict}")
    return is_good


def main(arguments: list[str] | None = None) -> int:
    """Run the load; returns 1 when a target was missed and --strict was given."""
    parser = argparse.ArgumentParser(prog="batch_report_runner.load", description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--leads", type=int, default=MOST)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--latency", type=float, default=0.5, help="seconds of the provider")
    parser.add_argument("--strict", action="store_true")
    asked = parser.parse_args(arguments)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="report-load-") as folder, (Path(folder) / "log").open("w") as log:
        environment = os.environ | {
            "BATCH_USERS": f"load:{TOKEN}",
            "BATCH_DATA": folder,
            "BATCH_STARTS_PER_MINUTE": "100000",
            "BATCH_PREVIEWS_PER_MINUTE": "100000",
            "BATCH_DAILY_BUDGET": "1000000",
            "BATCH_PROVIDER_LATENCY": str(asked.latency),
        }
        command = [sys.executable, "-m", "batch_report_runner", f"--port={port}", f"--workers={asked.workers}"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            asyncio.run(_ready(port))
            is_good = asyncio.run(drive(port, asked.clients, asked.leads))
        finally:
            process.terminate()
            process.wait(60)
    return 1 if asked.strict and not is_good else 0


async def _ready(port: int) -> None:
    deadline, caller = time.monotonic() + 60, Caller(port, TOKEN)
    while True:
        try:
            async with caller:
                if (await caller.ask("GET", "/healthz")).status == 200:
                    return
        except OSError:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    sys.exit(main())
