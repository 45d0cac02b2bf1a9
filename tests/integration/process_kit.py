"""What tests of processes share: a process manager to vary, and a worker that is moved by hand, one step at a time."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

import psycopg

from commandbus import RetryPolicy, TroubleshootingQueue
from commandbus._core.queue_sql import Claimed
from commandbus.outcome import completed, failed
from commandbus.process import BaseProcessManager, ProcessCommand, ProcessMetadata, ProcessRepository, ProcessResponse
from commandbus.repositories import queue, workers
from commandbus.settlement import Finished, Settlement
from tests.integration.worker_kit import Bench

AT_ONCE = RetryPolicy(max_attempts=3, backoff_schedule=[0])


class Step(StrEnum):
    RESERVE = "Reserve"
    PAY = "Pay"
    SHIP = "Ship"
    RETURN = "Return"
    REFUND = "Refund"


@dataclass
class OrderState:
    order: int = 0
    path: list[str] = field(default_factory=lambda: ["Reserve", "Pay", "Ship"])
    results: list[Any] = field(default_factory=list)


class OrderProcess(BaseProcessManager):
    """Goes the steps of its state's path, one result each; Return undoes Reserve, Refund undoes Pay."""

    process_type = "Order"
    domain = "orders"
    state_class = OrderState
    step_class = Step

    def get_first_step(self, state: OrderState) -> str:
        return state.path[0]

    def build_command(self, step: str, state: OrderState) -> ProcessCommand:
        return ProcessCommand(step, {"order": state.order, "results": len(state.results)})

    def update_state(self, state: OrderState, step: str, response: ProcessResponse) -> None:
        state.results.append(response.result)

    def get_next_step(self, current_step: str, response: ProcessResponse, state: OrderState) -> str | None:
        return state.path[len(state.results)] if len(state.results) < len(state.path) else None

    def get_compensation_step(self, step: str) -> str | None:
        return {"Reserve": Step.RETURN, "Pay": Step.REFUND}.get(step)


def make_manager(bench: Bench, kind: type[BaseProcessManager] = OrderProcess, **changes: Any) -> Any:
    """Make a manager in the test's domain, of a process type of its own; `changes` are attributes and methods."""
    names = {"domain": bench.domain, "process_type": f"{kind.__name__}-{bench.domain[1:13]}"}
    return type(kind.__name__, (kind,), names | changes)(bench.pool)


class Hand:
    """A worker that does what the test says: it claims and settles, and nothing by itself."""

    def __init__(self, bench: Bench, conn: psycopg.AsyncConnection[Any], worker_id: int, managers: Sequence[Any]):
        self.bench = bench
        self.conn = conn
        self.worker_id = worker_id
        self.settlement = Settlement(bench.domain, worker_id, {m.process_type: m for m in managers})

    async def claim(self, limit: int = 1, *, lease: float = 30.0) -> list[Claimed]:
        """Lease the next commands of the test's domain."""
        return await queue.claim(
            self.conn, self.bench.domain, self.worker_id, limit=limit, lease=lease, max_attempts=3, after=0
        )

    async def settle(self, *ends: tuple[Claimed, Any]) -> set[int]:
        """Settle claims in one group: each with the result that its handler returned, or the error that it raised."""
        finished = []
        for claimed, end in ends:
            if isinstance(end, BaseException):
                outcome = failed(end, claimed.failures, claimed.max_attempts, AT_ONCE, {})
            else:
                outcome = completed(end, claimed.failures, {})
            finished.append(Finished(claimed, outcome))
        return await self.settlement.settle(self.conn, finished)

    async def turn(self, end: Any = None, *, step: str | None = None) -> Claimed:
        """Claim one command and settle it so; `step` is the one that it must be."""
        (claimed,) = await self.claim()
        assert step is None or claimed.step == step, f"claimed {claimed.step}, not {step}"
        assert await self.settle((claimed, end)) == set()
        return claimed


@asynccontextmanager
async def open_hand(bench: Bench, *managers: Any) -> AsyncIterator[Hand]:
    """A worker by hand in the test's domain, in whose application these managers live."""
    async with await psycopg.AsyncConnection.connect(bench.dsn, autocommit=True) as conn:
        types = [m.process_type for m in managers]
        worker_id = await workers.register(conn, bench.domain, [str(s) for s in Step], types, 1)
        yield Hand(bench, conn, worker_id, managers)
        await workers.heartbeat(conn, worker_id, workers.WorkerCounts(), stopped=True)


async def process_of(bench: Bench, process_id: UUID) -> ProcessMetadata:
    """Read a process that must be there."""
    process = await ProcessRepository(bench.pool).get(process_id)
    assert process is not None
    return process


async def steps_of(bench: Bench, process_id: UUID) -> list[tuple[str, int, str]]:
    """What a process has sent, oldest first: step, visit, status."""
    trail = await ProcessRepository(bench.pool).get_audit_trail(process_id)
    return [(entry.step, entry.visit, str(entry.status)) for entry in trail]


def operators(bench: Bench, *managers: Any) -> TroubleshootingQueue:
    """The troubleshooting queue of an application with these managers."""
    return TroubleshootingQueue(bench.pool, processes=managers)
