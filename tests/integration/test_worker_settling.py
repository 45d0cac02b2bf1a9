"""Settling and claiming, one step at a time: answers that were lost, and locks that others hold."""

import asyncio
from uuid import UUID

import pytest

from commandbus._core.queue_sql import Claimed
from commandbus.executor import Run
from commandbus.handler import RegisteredHandler
from commandbus.outcome import Outcome, completed, failed
from commandbus.policies import RetryPolicy
from commandbus.process.router import ProcessReplyRouter
from commandbus.repositories import queue, workers
from commandbus.settlement import Finished, Settlement
from commandbus.worker.claiming import context_of
from commandbus.worker.lanes import Lane, Pending
from commandbus.worker.leases import CommandLease
from commandbus.worker.reserved import ReservedConnection
from commandbus.worker.settling import Settling
from tests.integration.worker_kit import PATIENCE, Bench

pytestmark = pytest.mark.asyncio


async def claim(bench: Bench, worker_id: int, *, limit: int = 10) -> list[Claimed]:
    async with bench.pool.connection() as conn:
        return await queue.claim(conn, bench.domain, worker_id, limit=limit, lease=30, max_attempts=3, after=0)


async def register(bench: Bench) -> int:
    async with bench.pool.connection() as conn:
        return await workers.register(conn, bench.domain, ["Ping"], [], 1)


async def sweep(bench: Bench) -> int:
    async with bench.pool.connection() as conn:
        return await queue.sweep(conn, bench.domain)


async def settle(bench: Bench, worker_id: int, outcomes: list[tuple[Claimed, Outcome]]) -> set[int]:
    async with bench.pool.connection() as conn:
        finished = [Finished(claimed, outcome) for claimed, outcome in outcomes]
        return await Settlement(bench.domain, worker_id, {}).settle(conn, finished)


def pending(bench: Bench, claimed: Claimed) -> Pending:
    """A claim whose handler has ended."""
    lease = CommandLease(claimed, bench.pool, Settlement(bench.domain, 0, {}))
    context = context_of(claimed, Settlement(bench.domain, 0, {}), lease)
    handler = RegisteredHandler(bench.domain, claimed.command_type, lambda command, context: None, False, "ping")
    return Pending(claimed, Run(context, handler, claimed.failures, 0.0), 0.0, Lane(1))


def outcome_of(claimed: Claimed, kind: str) -> Outcome:
    if kind == "COMPLETED":
        return completed({"n": 1}, claimed.failures, {})
    return failed(ValueError("x"), claimed.failures, 3, RetryPolicy(backoff_schedule=[100]), {})


@pytest.mark.parametrize("kind", ["COMPLETED", "RETRY_SCHEDULED"])
async def test_a_settle_whose_answer_was_lost_may_be_sent_again(bench: Bench, kind: str) -> None:
    worker_id = await register(bench)
    command_id = await bench.send("Ping", reply_to="me")
    (claimed,) = await claim(bench, worker_id)
    for _ in range(3):
        assert await settle(bench, worker_id, [(claimed, outcome_of(claimed, kind))]) == set()
    assert await bench.trail(command_id) == ["SENT", "RECEIVED", kind]
    replies = await bench.execute("SELECT 1 FROM commandbus.reply WHERE command_id = %s", command_id)
    assert len(replies) == (1 if kind == "COMPLETED" else 0)


async def test_in_a_group_only_what_was_lost_is_dropped(bench: Bench) -> None:
    zombie, heir = await register(bench), await register(bench)
    ids: list[UUID] = [await bench.send("Ping") for _ in range(3)]
    stale = await claim(bench, zombie)
    assert [c.command_id for c in stale] == ids
    await bench.skip(30)
    (taken,) = await claim(bench, heir, limit=1)
    lost = await settle(bench, zombie, [(c, outcome_of(c, "COMPLETED")) for c in stale])
    assert lost == {taken.seq}
    assert await bench.trail(ids[0]) == ["SENT", "RECEIVED", "RECEIVED", "LATE_OUTCOME_DROPPED"]
    for command_id in ids[1:]:
        assert await bench.trail(command_id) == ["SENT", "RECEIVED", "COMPLETED"]
    assert await settle(bench, heir, [(taken, outcome_of(taken, "COMPLETED"))]) == set()


async def test_a_worker_that_claimed_a_command_again_settles_its_newer_claim_only(bench: Bench) -> None:
    worker_id = await register(bench)
    command_id = await bench.send("Ping", reply_to="me")
    (old,) = await claim(bench, worker_id)
    await bench.skip(30)  # it could not settle for so long
    (new,) = await claim(bench, worker_id)
    conn, counts = ReservedConnection(bench.pool), workers.WorkerCounts()
    settling = Settling(conn, Settlement(bench.domain, worker_id, {}), ProcessReplyRouter([]), counts, 1.0)
    for claimed in (old, new):
        settling.add(pending(bench, claimed), outcome_of(claimed, "COMPLETED"))
    settles = asyncio.create_task(settling.run())
    async with asyncio.timeout(PATIENCE):
        await settling.flush()
    settles.cancel()
    await asyncio.wait([settles])
    await conn.close()
    assert await bench.trail(command_id) == ["SENT", "RECEIVED", "RECEIVED", "LATE_OUTCOME_DROPPED", "COMPLETED"]
    assert await bench.execute("SELECT count(*) FROM commandbus.reply WHERE command_id = %s", command_id) == [(1,)]
    assert (counts.completed, counts.dropped) == (1, 1)


async def test_a_released_command_cannot_be_settled_under_the_old_claim(bench: Bench) -> None:
    worker_id = await register(bench)
    command_id = await bench.send("Ping")
    (old,) = await claim(bench, worker_id)
    async with bench.pool.connection() as conn:
        await queue.release(conn, bench.domain, worker_id, [old])
    assert await settle(bench, worker_id, [(old, outcome_of(old, "COMPLETED"))]) == {old.seq}
    (new,) = await claim(bench, worker_id)
    assert (new.seq, new.epoch, new.failures, new.lost_leases) == (old.seq, old.epoch + 1, 0, 0)
    assert await settle(bench, worker_id, [(old, outcome_of(old, "COMPLETED"))]) == {old.seq}
    assert await settle(bench, worker_id, [(new, outcome_of(new, "COMPLETED"))]) == set()
    assert (await bench.trail(command_id))[-1] == "COMPLETED"


async def test_claims_at_once_never_share_a_command(bench: Bench) -> None:
    ids = {await bench.send("Ping") for _ in range(30)}
    workers_of = [await register(bench) for _ in range(6)]
    claims = await asyncio.gather(*(claim(bench, worker_id, limit=7) for worker_id in workers_of))
    claimed = [c.command_id for batch in claims for c in batch]
    assert len(claimed) == len(set(claimed))
    assert set(claimed) <= ids


async def test_a_claim_under_way_makes_no_other_claim_wait(bench: Bench) -> None:
    first, second = await bench.send("Ping"), await bench.send("Ping")
    one, other = await register(bench), await register(bench)
    async with bench.pool.connection() as conn:  # a claim that has not committed
        held = await queue.claim(conn, bench.domain, one, limit=1, lease=30, max_attempts=3, after=0)
        async with asyncio.timeout(5):
            free = await claim(bench, other)
    assert ([c.command_id for c in held], [c.command_id for c in free]) == ([first], [second])


async def test_commands_are_claimed_in_the_order_of_their_sending(bench: Bench) -> None:
    ids = [await bench.send("Ping") for _ in range(20)]
    worker_id = await register(bench)
    got = [c.command_id for _ in range(4) for c in await claim(bench, worker_id, limit=5)]
    assert got == ids


async def test_a_sweep_parks_a_command_once_and_only_after_its_last_lease(bench: Bench) -> None:
    worker_id = await register(bench)
    command_id = await bench.send("Ping", max_attempts=2)
    for lost in range(2):
        (claimed,) = await claim(bench, worker_id)
        assert (claimed.lost_leases, await sweep(bench)) == (lost, 0)
        await bench.skip(30)
        if lost == 0:
            assert await sweep(bench) == 0
    assert await claim(bench, worker_id) == []  # its last lease was lost: nobody takes it any more
    assert [await sweep(bench), await sweep(bench)] == [1, 0]
    assert await bench.trail(command_id) == ["SENT", "RECEIVED", "RECEIVED", "MOVED_TO_TSQ"]
