"""What tests of roles share: the verbs of the bus, each with the roles that may do it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from commandbus import (
    BatchCommand,
    CommandBus,
    CommandStatus,
    PermanentCommandError,
    SendRequest,
    TransientCommandError,
    stop_workers,
)
from commandbus.auditor import audit
from commandbus.process import ProcessReplyRouter
from commandbus.prune import prune
from commandbus.replies import ReplyQueue
from commandbus.repositories import queue, workers
from commandbus.status import status
from tests.integration.process_kit import Hand, open_hand, operators, steps_of
from tests.integration.tsq_kit import park, park_processes, parked_of
from tests.integration.worker_kit import Bench, eventually, running

PRODUCER, WORKER, OPERATOR, AUDITOR = "producer", "worker", "operator", "auditor"
EVERYBODY = frozenset({PRODUCER, WORKER, OPERATOR, AUDITOR})
REPLIES = "replies-of-the-shop"


@dataclass
class Scene:
    """What the verbs act on, made by the owner; `bench.pool` and `bus` are those of the role that acts."""

    bench: Bench  # of the role that acts
    manager: Any  # with that bench
    owner: Bench
    owners_manager: Any
    hand: Hand  # of the owner

    @property
    def bus(self) -> CommandBus:
        return self.bench.bus

    async def parked(self) -> UUID:
        await self.drained()
        return (await park(self.owner, self.hand))[0]

    async def replied(self) -> ReplyQueue:
        await self.drained()
        await self.owner.send("Reserve", reply_to=REPLIES)
        await self.hand.turn({})
        return ReplyQueue(self.bench.pool, REPLIES)

    async def drained(self) -> None:
        """Nothing claimable is left by the verb before."""
        while claims := await self.hand.claim(100):
            await self.hand.settle(*[(claimed, {}) for claimed in claims])


# Called for very many live commands only.
LEASED = "SELECT * FROM commandbus.find_leased_commands(%s, NULL, '-infinity', 'infinity', 0, 10)"

Verb = Callable[[Scene], Awaitable[Any]]
VERBS: dict[str, tuple[frozenset[str], Verb]] = {}


def verb(*roles: str) -> Callable[[Verb], Verb]:
    def add(function: Verb) -> Verb:
        VERBS[function.__name__] = (frozenset(roles), function)
        return function

    return add


# An operator may send too: to cancel a process is to send what undoes it.
@verb(PRODUCER, WORKER, OPERATOR)
async def send(scene: Scene) -> None:
    await scene.bench.send("Reserve", reply_to=REPLIES)


@verb(PRODUCER, WORKER, OPERATOR)
async def send_batch(scene: Scene) -> None:
    await scene.bus.send_batch([SendRequest(scene.bench.domain, "Reserve", uuid4(), {}) for _ in range(3)])


@verb(PRODUCER, WORKER)
async def create_batch(scene: Scene) -> None:
    await scene.bus.create_batch(scene.bench.domain, [BatchCommand("Reserve", uuid4(), {}) for _ in range(3)])


@verb(PRODUCER, WORKER)
async def start_processes(scene: Scene) -> None:
    batch_id = await scene.bus.create_process_batch(scene.bench.domain, 2)
    await scene.manager.start({"order": 1})
    await scene.manager.start_many([{"order": 2}, {"order": 3}], batch_id=batch_id)


@verb(PRODUCER)
async def receive_replies(scene: Scene) -> None:
    queue = await scene.replied()
    received = await queue.receive(limit=10, lease=30)
    assert received
    await queue.release(received[1:])
    await queue.acknowledge(received[:1])


@verb(WORKER)
async def work(scene: Scene) -> None:
    attempts = 0

    async def handle(command: Any, context: Any) -> dict[str, Any]:
        nonlocal attempts
        attempts += 1
        if command.data.get("breaks"):
            raise PermanentCommandError("BROKEN", "out of order")
        if attempts == 1:
            raise TransientCommandError("BUSY", "come again")
        await context.extend_visibility(30)
        async with context.transaction() as conn:
            await scene.bus.send(
                domain=scene.bench.domain, command_type="Later", command_id=uuid4(), data={}, conn=conn
            )
            await context.complete({})
        return {}

    await scene.drained()
    process_id = await scene.owners_manager.start({"order": 5})
    async with open_hand(scene.owner) as elsewhere:  # of an application without the manager: its reply waits
        await elsewhere.turn({}, step="Reserve")
    scene.bench.registry.add(scene.bench.domain, "Reserve", handle)
    command_id = await scene.owner.send("Reserve")
    async with running(scene.bench.make_worker(processes=[scene.manager])):
        await scene.owner.until(command_id)
        await scene.owner.until(
            await scene.owner.send("Reserve", {"breaks": True}), CommandStatus.IN_TROUBLESHOOTING_QUEUE
        )
        await eventually(lambda: _has_moved(scene, process_id), "the next step of the process")


@verb(WORKER)
async def work_by_hand(scene: Scene) -> None:
    """What a worker does seldom: it gives back, routes replies that wait, and forgets old statistics."""
    await scene.drained()
    await scene.owner.send("Reserve")
    async with open_hand(scene.bench, scene.manager) as hand:
        claims = await hand.claim()
        await queue.release(hand.conn, scene.bench.domain, hand.worker_id, claims)
        await workers.forget(hand.conn)
        await ProcessReplyRouter([scene.manager]).route(hand.conn)


async def _has_moved(scene: Scene, process_id: UUID) -> bool | None:
    return len(await steps_of(scene.owner, process_id)) > 1 or None


@verb(OPERATOR)
async def retry(scene: Scene) -> None:
    await operators(scene.bench).operator_retry(await scene.parked(), operator="ann")


@verb(OPERATOR)
async def cancel(scene: Scene) -> None:
    await scene.drained()
    (process_id,) = await park_processes(scene.owner, scene.hand, scene.owners_manager, 1, "Pay")
    await operators(scene.bench, scene.manager).operator_cancel(
        *await parked_of(scene.owner, [process_id]), operator="ann"
    )


@verb(OPERATOR)
async def complete(scene: Scene) -> None:
    await operators(scene.bench).operator_complete(await scene.parked(), {"by": "hand"}, operator="ann")


@verb(OPERATOR)
async def cancel_process(scene: Scene) -> None:
    await scene.drained()
    process_id = await scene.owners_manager.start({"order": 9})
    await scene.hand.turn({}, step="Reserve")
    await scene.manager.cancel_process(process_id, operator="ann")


@verb(OPERATOR)
async def cancel_batch(scene: Scene) -> None:
    batch_id = await scene.owner.bus.create_batch(scene.owner.domain, [BatchCommand("Reserve", uuid4(), {})])
    await scene.bus.cancel_batch(scene.bench.domain, batch_id, operator="ann")


@verb(OPERATOR, WORKER)
async def stop(scene: Scene) -> None:
    await stop_workers(scene.bench.pool, scene.bench.domain)


@verb(*EVERYBODY)
async def read(scene: Scene) -> None:
    command_id = await scene.owner.send("Reserve")
    assert (await scene.bus.get_command(command_id)).command_type == "Reserve"
    assert await scene.bus.get_audit_trail(command_id)
    for state in CommandStatus:
        await scene.bus.query_commands(status=state, domain=scene.bench.domain)
    batch_id = await scene.owner.bus.create_batch(scene.owner.domain, [BatchCommand("Reserve", uuid4(), {})])
    assert (await scene.bus.list_batch_commands(batch_id)).items
    await scene.bus.list_batches(scene.bench.domain)
    await operators(scene.bench).list_troubleshooting(scene.bench.domain)
    await operators(scene.bench).count_troubleshooting(scene.bench.domain)
    await scene.bench.execute(LEASED, scene.bench.domain)
    assert (await status(scene.bench.pool)).domain(scene.bench.domain).backlog
    async with scene.bench.pool.connection() as conn:
        await audit(conn, domains=[scene.bench.domain])


@verb()
async def remove_what_is_old(scene: Scene) -> None:
    await scene.owner.send("Reserve")
    await scene.drained()
    assert (await prune(scene.bench.pool, timedelta(0), domains=[scene.bench.domain])).commands


@verb()
async def change_the_trail(scene: Scene) -> None:
    await scene.bench.execute("UPDATE commandbus.event SET type = 'COMPLETED'")


@verb()
async def change_the_schema(scene: Scene) -> None:
    await scene.bench.execute("CREATE TABLE commandbus.mine ()")
