"""One schedule: a seed says who acts next, who crashes and when time passes; then all comes to rest and is audited."""

import asyncio
from collections.abc import Callable
from typing import LiteralString

from commandbus.auditor import Violation, audit
from commandbus.process import BaseProcessManager
from pytest_commandbus.ledger import Trail
from tests.simulator.actors import Actor, Consumer, Operator, Router, Sender, Worker
from tests.simulator.sagas import DOMAIN, HookedTripProcess, TripProcess
from tests.simulator.stage import Stage

ACTORS = 7
STEPWISE = 0.35  # of all steps are stopped before each statement
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
     GROUP BY c.command_id HAVING count(h.reply_id) <> (c.reply_to IS NOT NULL)::integer"""


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
        turns = stage.rng.randint(6, 30)
        remembered = stage.rng.randrange(turns)
        for turn in range(turns):
            await self._turn()
            if turn == remembered:
                trail = await Trail.read(stage.conn)
        await self._come_to_rest()
        return await self._violations(trail)

    async def _open(self) -> None:
        """What there is to do at the beginning."""
        sender, rng = self.sender, self.stage.rng
        steps: list[Callable[[], object]] = [sender.send, sender.start_process, sender.start_process]
        for step in rng.choices([*steps, sender.start_batch, sender.start_process_batch], k=rng.randint(1, 3)):
            await step()  # type: ignore[misc]

    async def _turn(self) -> None:
        """Let the seed choose what happens next, and see it through."""
        rng = self.stage.rng
        choices: list[tuple[float, str, Callable[[], Actor | None]]] = []
        for actor in self.actors:
            if actor.task is None:
                choices += [(weight, f"{actor.name} {name}", self._starter(actor, step)) for weight, name, step in actor.moves()]
            elif actor.gate.waiting is not None:
                choices += self._inside(actor)
        choices.append((1.2, "", lambda: None))
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

    def _starter(self, actor: Actor, step: Callable[[], object]) -> Callable[[], Actor]:
        def start() -> Actor:
            actor.start(step(), stepwise=self.stage.rng.random() < STEPWISE)  # type: ignore[arg-type]
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
            (0.5, f"{name} loses an answer", lose),
            (0.5, f"{name} crashes", crash),
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
        if actor.task is not None and actor.gate.waiting is None:
            await actor.task
            actor.task = None
        return True

    async def _come_to_rest(self) -> None:
        """No more trouble: end what is under way, then work until nothing is left to do."""
        self.stage.is_calm = True
        for actor in self.actors:
            actor.gate.is_open = True
            if actor.gate.waiting is not None:
                actor.gate.go_on()
        for actor in self.actors:
            if actor.task is not None:
                await actor.task
                actor.task = None
        for worker in self.workers:
            if worker.settlement is None:
                await worker.register()
        await self._work(self.workers[1])
        for _ in range(MOST_ROUNDS):
            ((is_queued, is_scheduled, is_parked, is_answered),) = await self.stage.rows(LEFT)
            if is_parked:
                await self.operators[0].decide()
            if is_answered:
                await self.router.route()
                await self.consumer.take()
            if is_queued or is_scheduled:
                await self.stage.skip(61)
                await self.workers[0].sweep()
                await self.workers[0].claim(100)
            await self._work(self.workers[0])
            if not (is_queued or is_scheduled or is_parked or is_answered):
                break
        for batch_id in self.operators[0].batches:
            await self.operators[0].bus.get_batch(DOMAIN, batch_id)

    @staticmethod
    async def _work(worker: Worker) -> None:
        """Let a worker handle and settle all that it has."""
        while worker.hand:
            await worker.handle()
        while worker.finished:
            await worker.settle()

    async def _violations(self, trail: Trail) -> list[Violation]:
        conn = self.stage.conn
        found = await audit(conn, liveness=True)
        found += await self.stage.ledger.violations(conn, knows_all_sends=True)
        found += await trail.violations(conn)
        return found + [Violation(rule, str(subject), message) for rule, subject, message in await self.stage.rows(EFFECTS)]
