"""Who acts in a schedule. Each owns one connection and does one step at a time, by the bus's own verbs."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from uuid_utils.compat import uuid7

from commandbus import BatchCommand, CommandBus, CommandBusError, RetryPolicy, TroubleshootingQueue
from commandbus._core.queue_sql import Claimed
from commandbus.executor import Executor, Run
from commandbus.process import BaseProcessManager, ProcessReplyRouter
from commandbus.replies import ReplyQueue
from commandbus.repositories import queue, workers
from commandbus.settlement import Finished, Settlement, split_group
from commandbus.worker.claiming import context_of
from commandbus.worker.leases import CommandLease
from tests.simulator.gates import AnswerLostError, CrashedError, OneConnection
from tests.simulator.sagas import ANSWERS, DOMAIN, PLAIN, HookedTripProcess, Step, TripProcess, make_registry
from tests.simulator.stage import Stage

_Answer = TypeVar("_Answer")
Move = tuple[float, str, Callable[[], Coroutine[Any, Any, object]]]  # weight, name, the step

LEASE = 30.0
POLICY = RetryPolicy(max_attempts=3, backoff_schedule=[10, 60])


class Actor(ABC):
    """Someone who does one step at a time, and may be stopped inside of it."""

    def __init__(self, stage: Stage, pool: OneConnection, name: str) -> None:
        self.stage = stage
        self.pool: Any = pool
        self.conn = pool.conn
        self.gate = pool.gate
        self.name = name
        self.task: asyncio.Task[None] | None = None

    @abstractmethod
    def moves(self) -> list[Move]:
        """What it could do next."""

    def crashed(self) -> None:  # noqa: B027 - most know nothing else
        """Forget what only the process knew."""

    def start(self, step: Coroutine[Any, Any, object], *, stepwise: bool) -> None:
        """Begin a step; stepwise: it waits for its turn before each statement."""
        self.gate.is_open = not stepwise
        self.gate.arrived.clear()
        self.task = asyncio.create_task(self._run(step))

    async def do(self, step: Coroutine[Any, Any, object]) -> None:
        """Do a whole step at once."""
        self.start(step, stepwise=False)
        await self.end()

    async def end(self) -> None:
        """Wait for the end of the step, if one is under way."""
        if self.task is not None:
            await self.task
            self.task = None

    async def _run(self, step: Coroutine[Any, Any, object]) -> None:
        try:
            await step
        except CrashedError:
            self.crashed()
        except (CommandBusError, psycopg.OperationalError) as error:  # refused, or not told how it ended
            self.stage.log(f"{self.name}: {type(error).__name__}")
        except Exception as error:
            self.stage.log(f"{self.name}: {type(error).__name__}")
            self.stage.errors.append(error)
        finally:
            self.gate.loses_answer = False
            self.gate.arrived.set()

    async def retrying(self, operation: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Do it until the server has answered, as ReservedConnection.retrying does."""
        while True:
            try:
                return await operation()
            except psycopg.OperationalError as error:
                self.stage.log(f"{self.name}: again after {type(error).__name__}")


class Worker(Actor):
    """Claims, handles, settles, renews, releases and sweeps, each when the schedule says so."""

    def __init__(self, stage: Stage, pool: OneConnection, name: str, managers: list[BaseProcessManager]) -> None:
        super().__init__(stage, pool, name)
        self.managers = managers
        self.registry = make_registry(stage)
        self.router = ProcessReplyRouter(managers)
        self.executor = Executor(POLICY, (), ThreadPoolExecutor(1))  # every handler is async: no thread is made
        self.hand: list[Claimed] = []
        self.finished: list[Finished] = []
        self.settlement: Settlement | None = None

    def crashed(self) -> None:
        self.hand.clear()
        self.finished.clear()
        self.settlement = None  # whoever starts again is another worker

    def moves(self) -> list[Move]:
        if self.settlement is None:
            return [(4, "starts", self.register)]
        care = self.stage.mood.care
        moves: list[Move] = [(4, "claims", self.claim), (0.4 * care, "sweeps", self.sweep)]
        if self.hand:
            moves += [(6, "handles", self.handle), (care, "releases", self.release), (care, "renews", self.renew)]
        if self.finished:
            moves += [(6, "settles", self.settle)]
        if self.managers and self.stage.may_be_answered:
            moves += [(5, "routes", self.route)]
        return moves

    async def register(self) -> None:
        types = [m.process_type for m in self.managers]
        worker_id = await self.retrying(lambda: workers.register(self.conn, DOMAIN, [PLAIN, *map(str, Step)], types, 3))
        self.settlement = Settlement(DOMAIN, worker_id, {m.process_type: m for m in self.managers})

    @property
    def worker_id(self) -> int:
        return 0 if self.settlement is None else self.settlement.worker_id

    async def claim(self, limit: int = 0) -> None:
        limit = limit or self.stage.rng.randint(1, 3)
        claims = await self.retrying(
            lambda: queue.claim(
                self.conn,
                DOMAIN,
                self.worker_id,
                limit=limit,
                lease=LEASE,
                max_attempts=self.stage.mood.max_attempts,
                after=0,
            )
        )
        for claimed in claims:
            self.stage.log(f"{self.name} has {self.stage.name_of(claimed.command_id)} epoch {claimed.epoch}")
        self.hand += claims

    async def handle(self) -> None:
        if self.settlement is None:
            return
        claimed = self.hand.pop(self.stage.rng.randrange(len(self.hand)))
        lease = CommandLease(claimed, self.pool, self.settlement)
        handler = self.registry.get(DOMAIN, claimed.command_type)
        run = Run(context_of(claimed, self.settlement, lease), handler, claimed.failures, 0.0)
        lease.run = run
        outcome = await self.executor.execute(run)
        if outcome is not None:
            self.finished.append(Finished(claimed, outcome))

    async def settle(self) -> None:
        group, self.finished = split_group(self.finished, 1_000)
        await self.retrying(lambda: self._settle(group))
        self.stage.may_be_parked |= any(f.outcome.event == "MOVED_TO_TSQ" for f in group)
        self.stage.may_be_answered |= any(f.outcome.reply is not None for f in group)

    async def _settle(self, group: list[Finished]) -> set[int]:
        return set() if self.settlement is None else await self.settlement.settle(self.conn, group)

    async def release(self) -> None:
        claims, self.hand = self.hand, []
        await self.retrying(lambda: queue.release(self.conn, DOMAIN, self.worker_id, claims))

    async def renew(self) -> None:
        kept = await self.retrying(lambda: queue.renew(self.conn, self.worker_id, self.hand, LEASE))
        self.hand = [claimed for claimed in self.hand if claimed.seq in kept]

    async def route(self) -> int:
        return await self.retrying(lambda: self.router.route(self.conn))

    async def sweep(self) -> None:
        self.stage.may_be_parked |= await self.retrying(lambda: queue.sweep(self.conn, DOMAIN)) > 0


class Router(Actor):
    """Applies replies that a worker without the managers left."""

    def __init__(self, stage: Stage, pool: OneConnection, name: str, managers: list[BaseProcessManager]) -> None:
        super().__init__(stage, pool, name)
        self.router = ProcessReplyRouter(managers)

    def moves(self) -> list[Move]:
        return [(5, "routes", self.route)] if self.stage.may_be_answered else []

    async def route(self) -> int:
        return await self.retrying(lambda: self.router.route(self.conn))


class Operator(Actor):
    """Decides about parked commands, cancels processes and batches, and looks at batches."""

    def __init__(self, stage: Stage, pool: OneConnection, name: str, managers: list[BaseProcessManager]) -> None:
        super().__init__(stage, pool, name)
        self.tsq = TroubleshootingQueue(self.pool, processes=managers)
        self.bus = CommandBus(self.pool)
        self.managers = {m.process_type: m for m in managers}
        self.batches: list[UUID] = []

    def moves(self) -> list[Move]:
        often = self.stage.mood.people
        moves: list[Move] = [(2 * often, "decides", self.decide)] if self.stage.may_be_parked else []
        if self.managers:
            moves.append((0.4 * often, "cancels a process", self.cancel_process))
        if self.batches:
            moves += [(0.5, "reads a batch", self.read_batch), (0.15 * often, "cancels a batch", self.cancel_batch)]
        return moves

    async def decide(self) -> None:
        parked = (await self.tsq.list_troubleshooting(DOMAIN)).items
        if not parked:
            self.stage.may_be_parked = False
            return
        rng = self.stage.rng
        ids = [item.command_id for item in parked]
        chosen = rng.choice(ids)
        verdict = "retry" if self.stage.is_calm else rng.choice(["retry", "complete", "cancel", "many"])
        self.stage.log(f"{self.name}: {verdict} {self.stage.name_of(chosen)}")
        self.stage.may_be_answered = True
        if verdict == "retry":
            await self.tsq.operator_retry(chosen, operator=self.name)
        elif verdict == "complete":
            await self.tsq.operator_complete(chosen, {"by": "hand"}, operator=self.name)
        elif verdict == "cancel":
            await self.tsq.operator_cancel(chosen, operator=self.name)
        else:
            await self.tsq.operator_retry_many(ids, operator=self.name)

    async def cancel_process(self) -> None:
        rows = await self.stage.rows("SELECT process_id, process_type FROM commandbus.process ORDER BY created_at, 1")
        if rows:
            process_id, process_type = self.stage.rng.choice(rows)
            self.stage.log(f"{self.name}: cancel {self.stage.name_of(process_id)}")
            await self.managers[process_type].cancel_process(process_id, operator=self.name)

    async def read_batch(self) -> None:
        await self.bus.get_batch(DOMAIN, self.stage.rng.choice(self.batches))

    async def cancel_batch(self) -> None:
        await self.bus.cancel_batch(
            DOMAIN, self.stage.rng.choice(self.batches), operator=self.name, processes=list(self.managers.values())
        )


class Consumer(Actor):
    """Waits for the replies of plain commands, and handles each in the transaction that acknowledges it."""

    def __init__(self, stage: Stage, pool: OneConnection, name: str) -> None:
        super().__init__(stage, pool, name)
        self.replies = ReplyQueue(self.pool, ANSWERS)

    def moves(self) -> list[Move]:
        return [(3, "takes replies", self.take)] if self.stage.may_be_answered else []

    async def take(self) -> None:
        for reply in await self.replies.receive(10, LEASE):
            async with self.conn.transaction():
                await self.conn.execute(
                    "INSERT INTO public.handled_reply VALUES (%s, %s)", (reply.reply_id, reply.command_id)
                )
                await self.replies.acknowledge([reply], conn=self.conn)


class Sender(Actor):
    """Sends commands, starts processes and batches; sends again what may or may not have been stored."""

    def __init__(self, stage: Stage, pool: OneConnection, name: str, operators: list[Operator]) -> None:
        super().__init__(stage, pool, name)
        self.bus = CommandBus(self.pool)
        self.operators = operators
        self.managers = [TripProcess(self.pool), HookedTripProcess(self.pool)]

    def moves(self) -> list[Move]:
        return [(0.6, "sends", self.send), (0.6, "starts a process", self.start_process)]

    async def send(self) -> None:
        command_id = uuid7()
        self.stage.ledger.attempt([command_id])
        reply_to = self.stage.rng.choice([ANSWERS, None])
        for _ in range(3):
            try:
                await self.bus.send(
                    domain=DOMAIN, command_type=PLAIN, command_id=command_id, data={"n": 1}, reply_to=reply_to
                )
            except AnswerLostError:
                continue
            except CommandBusError:  # it was stored, as the answer that was lost had said
                pass
            self.stage.ledger.acknowledge([command_id])
            return

    async def start_process(self) -> None:
        manager = self.stage.rng.choice(self.managers)
        await manager.start({"number": 1, "length": self.stage.rng.randint(1, 3)})

    async def start_batch(self) -> None:
        ids = [uuid7(), uuid7()]
        self.stage.ledger.attempt(ids)
        batch_id = await self.bus.create_batch(DOMAIN, [BatchCommand(PLAIN, i, {"n": 2}) for i in ids])
        self.stage.ledger.acknowledge(ids)
        self._publish(batch_id)

    async def start_process_batch(self) -> None:
        batch_id = await self.bus.create_process_batch(DOMAIN, 2)
        data = {"number": 2, "length": self.stage.rng.randint(1, 2)}
        self._publish(batch_id)
        await self.stage.rng.choice(self.managers).start_many([data, data], batch_id=batch_id)

    def _publish(self, batch_id: UUID) -> None:
        for operator in self.operators:
            operator.batches.append(batch_id)
