"""One schedule: a seed says who acts next, who crashes and when time passes; then all comes to rest and is audited."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, LiteralString

from psycopg.sql import SQL, Composed

from commandbus._core.audit_sql import AuditStatement
from commandbus.auditor import LIVENESS_STATEMENTS, SAFETY_STATEMENTS, Violation
from commandbus.process import BaseProcessManager
from pytest_commandbus.ledger import Trail
from tests.simulator.actors import Actor, Consumer, Operator, Router, Sender, Worker
from tests.simulator.sagas import DOMAIN, HookedTripProcess, TripProcess
from tests.simulator.stage import Stage

Step = Callable[[], Coroutine[Any, Any, object]]

ERROR = "ERROR"  # the bus raised what nobody expects of it
ACTORS = 7
MOST_ROUNDS = 40
SKIPS = (1.0, 11.0, 31.0, 61.0)  # seconds; a lease lasts 30, retries wait for 10 and 60

LEFT: LiteralString = """
    SELECT EXISTS (SELECT FROM commandbus.queue), EXISTS (SELECT FROM commandbus.scheduled),
           EXISTS (SELECT FROM commandbus.troubleshooting), EXISTS (SELECT FROM commandbus.reply)"""
IS_BLOCKED: LiteralString = "SELECT cardinality(pg_catalog.pg_blocking_pids(%s)) > 0"
# What must hold of the rows that handlers, hooks and consumers wrote in the bus's transactions, once all is at rest.
EFFECTS: LiteralString = """
    SELECT 'S8', e.command_id, format('%s effects under epoch %s', count(*), e.epoch) FROM public.effect e
     GROUP BY e.command_id, e.epoch
    HAVING count(*) > 1 OR NOT EXISTS (SELECT FROM commandbus.event v WHERE v.command_id = e.command_id
                                          AND v.type = 'COMPLETED' AND v.epoch = e.epoch)
    UNION ALL
    SELECT 'S8', c.command_id, 'completed in its handler''s transaction, but without the effect'
      FROM commandbus.command c WHERE c.result ->> 'in' = 'transaction'
       AND NOT EXISTS (SELECT FROM public.effect e WHERE e.command_id = c.command_id)
    UNION ALL
    SELECT 'S8', coalesce(p.command_id, c.command_id), format('%s rows prepared for it', count(p.command_id))
      FROM public.prepared p
      FULL JOIN (SELECT c.command_id FROM commandbus.command c JOIN commandbus.process s USING (process_id)
                  WHERE s.process_type = 'HookedTrip') c ON c.command_id = p.command_id
     GROUP BY p.command_id, c.command_id HAVING count(p.command_id) <> 1 OR c.command_id IS NULL
    UNION ALL
    SELECT 'S9', c.command_id, format('%s replies were handled', count(h.reply_id)) FROM commandbus.command c
      LEFT JOIN public.handled_reply h USING (command_id)
     WHERE c.process_id IS NULL AND c.completed_at IS NOT NULL
     GROUP BY c.command_id HAVING count(h.reply_id) <> (c.reply_to IS NOT NULL)::integer
    UNION ALL
    SELECT 'S11', c.command_id, format('%s, but step %s was not undone', p.status, c.step)
      FROM commandbus.process p JOIN commandbus.command c USING (process_id)
     WHERE p.status IN ('COMPENSATED', 'CANCELED') AND c.status = 'COMPLETED' AND c.step IN ('Book', 'Pay')
       AND NOT EXISTS (SELECT FROM commandbus.command u WHERE u.compensates = c.command_id)"""


def _all_of(statements: Sequence[AuditStatement]) -> Composed:
    """The auditor's statements as one: for a handful of rows the round trips would cost more than the audit."""
    one = SQL("SELECT rule, subject::text, message FROM ({}) defects")
    return SQL(" UNION ALL ").join(one.format(SQL(statement.statement)) for statement in statements)


SAFETY = _all_of(SAFETY_STATEMENTS)
SAFETY_AND_LIVENESS = _all_of(SAFETY_STATEMENTS + LIVENESS_STATEMENTS)


class Schedule:
    """The cast of one stage, and how it plays one seed after another."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        pools = iter(stage.pools)
        first, other, route, ann, bob, reply, send = (next(pools) for _ in range(ACTORS))
        self.workers = [
            Worker(stage, first, "worker 1", [TripProcess(first), HookedTripProcess(first)]),  # type: ignore[arg-type]
            Worker(stage, other, "worker 2", []),
        ]
        self.router = Router(stage, route, "router", [TripProcess(), HookedTripProcess()])
        managers: list[BaseProcessManager] = [TripProcess(ann), HookedTripProcess(ann)]  # type: ignore[arg-type]
        self.operators = [Operator(stage, ann, "ann", managers), Operator(stage, bob, "bob", [])]
        self.consumer = Consumer(stage, reply, "consumer")
        self.sender = Sender(stage, send, "sender", self.operators)
        self.actors: list[Actor] = [*self.workers, self.router, *self.operators, self.consumer, self.sender]

    async def play(self, seed: int) -> list[Violation]:
        """Play one seed to its end; returns every invariant that is broken then."""
        stage = self.stage
        await stage.begin(seed)
        for actor in self.actors:
            actor.gate.is_open = True
        for worker in self.workers:
            worker.hand.clear()
            worker.finished.clear()
            if worker.settlement is None:  # it crashed in the schedule before; each begins with all at work
                await worker.register()
        for operator in self.operators:
            operator.batches.clear()
        await self._open()
        trail = Trail()
        turns = stage.rng.randint(6, 28)
        remembered = stage.rng.randrange(turns)
        for turn in range(turns):
            await self._turn()
            if turn == remembered:
                trail = await Trail.read(stage.conn)
        amid = await self._audit(SAFETY)
        await self._come_to_rest()
        return amid + await self._violations(trail)

    async def _open(self) -> None:
        """What there is to do at the beginning."""
        sender, rng = self.sender, self.stage.rng
        steps: list[Step] = [sender.send, sender.send, sender.start_process, sender.start_process]
        for step in rng.choices([*steps, sender.start_batch, sender.start_process_batch], k=rng.randint(1, 3)):
            await sender.do(step())

    async def _turn(self) -> None:
        """Let the seed choose what happens next, and see it through."""
        rng = self.stage.rng
        choices: list[tuple[float, str, Callable[[], Actor | None]]] = []
        for actor in self.actors:
            if actor.task is None:
                choices += [
                    (weight, f"{actor.name} {name}", self._starter(actor, step)) for weight, name, step in actor.moves()
                ]
            elif actor.gate.waiting is not None:
                choices += self._inside(actor)
        choices.append((self.stage.mood.time, "", lambda: None))
        _, label, act = rng.choices(choices, [choice[0] for choice in choices])[0]
        if not label:
            await self.stage.skip(rng.choice(SKIPS))
            return
        self.stage.log(label)
        actor = act()
        if actor is not None:
            await self._settled(actor)
        for other in self.actors:  # whom that let go on
            if other is not actor and other.task is not None and other.gate.waiting is None:
                await self._settled(other)

    def _starter(self, actor: Actor, step: Step) -> Callable[[], Actor]:
        def start() -> Actor:
            actor.start(step(), stepwise=self.stage.rng.random() < self.stage.mood.stepwise)
            return actor

        return start

    def _inside(self, actor: Actor) -> list[tuple[float, str, Callable[[], Actor | None]]]:
        """What can happen to a step that is under way."""

        def go_on() -> Actor:
            actor.gate.go_on()
            return actor

        def run_on() -> Actor:
            actor.gate.is_open = True
            actor.gate.go_on()
            return actor

        def lose() -> Actor:
            actor.gate.loses_answer = True
            actor.gate.go_on()
            return actor

        def crash() -> Actor:
            actor.gate.crash()
            return actor

        name = actor.name
        return [
            (6, f"{name} goes on", go_on),
            (3, f"{name} runs on", run_on),
            (self.stage.mood.crashes, f"{name} loses an answer", lose),
            (self.stage.mood.crashes, f"{name} crashes", crash),
        ]

    async def _settled(self, actor: Actor) -> bool:
        """Wait until the actor's step has ended, stands at its gate, or waits for a lock of another; False for that."""
        while not actor.gate.arrived.is_set():
            try:
                async with asyncio.timeout(0.02):
                    await actor.gate.arrived.wait()
            except TimeoutError:
                ((is_blocked,),) = await self.stage.rows(IS_BLOCKED, actor.conn.info.backend_pid)
                if is_blocked:
                    self.stage.log(f"{actor.name} waits for a lock")
                    return False
        if actor.gate.waiting is None:
            await actor.end()
        return True

    async def _come_to_rest(self) -> None:
        """No more trouble: end what is under way, then work until nothing is left to do."""
        self.stage.is_calm = True
        for actor in self.actors:
            actor.gate.is_open = True
            if actor.gate.waiting is not None:
                actor.gate.go_on()
        for actor in self.actors:
            await actor.end()
        worker, other = self.workers
        for each in self.workers:
            if each.settlement is None:
                await each.do(each.register())
        await self._work(other)
        for _ in range(MOST_ROUNDS):
            ((is_queued, is_scheduled, is_parked, is_answered),) = await self.stage.rows(LEFT)
            if is_parked:
                await self.operators[0].do(self.operators[0].decide())
            if is_answered:
                await self.router.do(self.router.route())
                await self.consumer.do(self.consumer.take())
            if is_queued or is_scheduled or is_answered:
                await self.stage.skip(61)
                await worker.do(worker.sweep())
                await worker.do(worker.claim(100))
            await self._work(worker)
            if not (is_queued or is_scheduled or is_parked or is_answered):
                break
        for batch_id in self.operators[0].batches:
            await self.operators[0].bus.get_batch(DOMAIN, batch_id)

    @staticmethod
    async def _work(worker: Worker) -> None:
        """Let a worker handle and settle all that it has."""
        while worker.hand:
            await worker.do(worker.handle())
        while worker.finished:
            await worker.do(worker.settle())

    async def _audit(self, statement: Composed) -> list[Violation]:
        cursor = await self.stage.conn.execute(statement, {})
        return [Violation(*row) for row in await cursor.fetchall()]

    async def _violations(self, trail: Trail) -> list[Violation]:
        conn = self.stage.conn
        found = await self._audit(SAFETY_AND_LIVENESS)
        found += await self.stage.ledger.violations(conn, knows_all_sends=True)
        found += await trail.violations(conn)
        found += [Violation(*map(str, row)) for row in await self.stage.rows(EFFECTS)]
        return found + [Violation(ERROR, type(error).__name__, str(error)) for error in self.stage.errors]
