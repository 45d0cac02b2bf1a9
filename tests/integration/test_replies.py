"""Consumers of replies: each reply is received, fenced by its epoch, and gone once it is acknowledged."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg_pool import AsyncConnectionPool

from commandbus import BusinessRuleError, PermanentCommandError, ReceivedReply, Reply, ReplyQueue
from commandbus.errors import InvalidNameError, ReplyLostError
from commandbus.models import BatchCommand, SendRequest
from commandbus.notify import ListenRefusedError, reply_channel
from tests.integration.process_kit import open_hand, operators
from tests.integration.worker_kit import NEVER, PATIENCE, Bench, eventually

pytestmark = pytest.mark.asyncio

LONG = 3_600.0  # seconds of a lease that no test lives to see
COUNT = "SELECT count(*) FROM commandbus.reply WHERE reply_to = %s"
LISTENERS = "SELECT pid FROM pg_stat_activity WHERE query = %s"


def make_queue(bench: Bench) -> ReplyQueue:
    """The replies at an address of this test's own."""
    return ReplyQueue(bench.pool, f"shop-{bench.domain}")


async def answered(bench: Bench, queue: ReplyQueue, *ends: Any) -> list[UUID]:
    """Send one command for each of `ends`, and settle it so; returns their ids."""
    ids = [await bench.send("Reserve", {"n": n}, reply_to=queue.reply_to) for n in range(len(ends))]
    async with open_hand(bench) as hand:
        claims = await hand.claim(len(ends))
        await hand.settle(*zip(claims, ends, strict=True))
    return ids


async def waiting(bench: Bench, queue: ReplyQueue) -> int:
    return int((await bench.execute(COUNT, queue.reply_to))[0][0])


async def test_replies_tell_what_became_of_their_commands(bench: Bench) -> None:
    queue = make_queue(bench)
    asked = uuid4()
    command_id = await bench.send("Reserve", reply_to=queue.reply_to, correlation_id=asked)
    async with open_hand(bench) as hand:
        await hand.turn({"shelf": 4})
    refused, empty = await answered(bench, queue, BusinessRuleError("NO_STOCK", "sold out"), None)
    (parked,) = await answered(bench, queue, PermanentCommandError("BROKEN"))
    await operators(bench).operator_cancel(parked, operator="ann")
    replies = await queue.receive(lease=LONG)
    assert [(r.command_id, r.correlation_id, r.outcome, r.result, r.error_code, r.error_message) for r in replies] == [
        (command_id, asked, "SUCCESS", {"shelf": 4}, None, None),
        (refused, None, "FAILED", None, "NO_STOCK", "sold out"),
        (empty, None, "SUCCESS", None, None, None),
        (parked, None, "CANCELED", None, "CANCELED", "cancelled by ann"),
    ]
    assert all(isinstance(reply, Reply) and reply.epoch == 1 for reply in replies)
    command = await bench.bus.get_command(command_id)
    assert (command.reply_to, replies[0].created_at) == (queue.reply_to, command.completed_at)
    assert (replies[0].lease_until - replies[0].created_at).total_seconds() >= LONG
    assert await queue.acknowledge(replies) == []
    assert await waiting(bench, queue) == 0


async def test_replies_of_another_address_are_not_seen(bench: Bench) -> None:
    queue, other = make_queue(bench), ReplyQueue(bench.pool, f"other-{bench.domain}")
    await answered(bench, queue, {})
    assert await other.receive() == []
    assert len(await queue.receive()) == 1


async def test_a_held_reply_is_nobody_elses_until_its_lease_ends(bench: Bench) -> None:
    """A consumer died: another one receives what it held, and tells by the epoch that it is not the first."""
    queue = make_queue(bench)
    ids = await answered(bench, queue, *[{}] * 5)
    held = await queue.receive(limit=3, lease=60)
    assert [r.command_id for r in held] == ids[:3]
    assert [r.command_id for r in await queue.receive(lease=LONG)] == ids[3:]
    assert await queue.receive() == []
    await bench.skip(59)
    assert await queue.receive() == []
    await bench.skip(2)
    again = await queue.receive(lease=LONG)
    assert [(r.command_id, r.epoch) for r in again] == [(command_id, 2) for command_id in ids[:3]]


async def test_a_late_acknowledgement_leaves_another_consumers_reply_alone(bench: Bench) -> None:
    queue = make_queue(bench)
    await answered(bench, queue, {}, {})
    late = await queue.receive(lease=60)
    await bench.skip(61)
    (taken,) = await queue.receive(limit=1, lease=LONG)
    assert await queue.acknowledge(late) == late[:1]  # the second is still its own, though its lease has ended
    assert await waiting(bench, queue) == 1
    await queue.release(late)
    assert await queue.receive() == []  # nor does a late release give it away
    assert await queue.acknowledge([taken]) == []
    assert await waiting(bench, queue) == 0


async def test_an_acknowledgement_that_comes_again_is_told_and_changes_nothing(bench: Bench) -> None:
    queue = make_queue(bench)
    await answered(bench, queue, {}, {})
    first, second = await queue.receive()
    assert await queue.acknowledge([first]) == []
    assert await queue.acknowledge([first, second]) == [first]
    assert await queue.acknowledge([]) == []
    assert await waiting(bench, queue) == 0


async def test_released_replies_are_received_at_once(bench: Bench) -> None:
    queue = make_queue(bench)
    ids = await answered(bench, queue, {}, {})
    await queue.release(await queue.receive(lease=LONG))
    assert [(r.command_id, r.epoch) for r in await queue.receive()] == [(ids[0], 2), (ids[1], 2)]
    await queue.release([])


async def test_an_acknowledgement_commits_with_the_consumers_own_writes(bench: Bench) -> None:
    queue = make_queue(bench)
    await answered(bench, queue, {})
    replies = await queue.receive(lease=LONG)
    async with bench.pool.connection() as conn:
        assert await queue.acknowledge(replies, conn=conn) == []
        await conn.rollback()
    assert await waiting(bench, queue) == 1
    async with bench.pool.connection() as conn:
        assert await queue.acknowledge(replies, conn=conn) == []
    assert await waiting(bench, queue) == 0


async def test_what_a_lost_reply_led_to_is_rolled_back(bench: Bench) -> None:
    """Two consumers held the same reply, one after the other: it has its effect once, in whichever transaction."""
    queue = make_queue(bench)
    ids = await answered(bench, queue, {}, {}, {})
    late = await queue.receive(lease=60)
    await bench.skip(61)
    taken = await queue.receive(limit=2, lease=LONG)
    await bench.execute("CREATE TABLE IF NOT EXISTS public.effect (command_id uuid)")

    async def consume(replies: list[ReceivedReply]) -> None:
        async with bench.pool.connection() as conn:
            for reply in replies:
                await conn.execute("INSERT INTO public.effect VALUES (%s)", (reply.command_id,))
            await queue.acknowledge(replies, conn=conn)

    with pytest.raises(ReplyLostError, match="and 1 more is no longer this consumer's") as caught:
        await consume(late)
    assert caught.value.command_ids == tuple(ids[:2])
    await consume(taken)
    with pytest.raises(ReplyLostError):
        await consume(taken)
    await consume(late[2:])
    effects = await bench.execute("SELECT command_id FROM public.effect WHERE command_id = ANY(%s)", ids)
    assert sorted(effects) == sorted((command_id,) for command_id in ids)
    assert await waiting(bench, queue) == 0


async def test_a_receive_that_is_rolled_back_has_leased_nothing(bench: Bench) -> None:
    queue = make_queue(bench)
    await answered(bench, queue, {})
    async with bench.pool.connection() as conn:
        (held,) = await queue.receive(lease=LONG, conn=conn)
        assert await queue.receive() == []  # locked: nobody waits for it
        await conn.rollback()
    (again,) = await queue.receive()
    assert (again.epoch, again.reply_id) == (1, held.reply_id)


async def test_many_consumers_at_once_share_the_replies(bench: Bench) -> None:
    queue = make_queue(bench)
    await answered(bench, queue, *[{}] * 60)

    async def consume() -> list[UUID]:
        mine: list[UUID] = []
        while replies := await queue.receive(limit=7, lease=LONG):
            assert await queue.acknowledge(replies) == []
            mine += [r.command_id for r in replies]
        return mine

    shares = await asyncio.gather(*[consume() for _ in range(5)])
    received = [command_id for share in shares for command_id in share]
    assert len(received) == len(set(received)) == 60
    assert await waiting(bench, queue) == 0


async def test_consumers_that_keep_losing_their_leases_acknowledge_each_reply_once(bench: Bench) -> None:
    """Every lease has run out when its consumer acknowledges: whoever received last is the one that counts."""
    queue = make_queue(bench)
    await answered(bench, queue, *[{}] * 40)

    async def consume(n: int) -> list[UUID]:
        done: list[UUID] = []
        while await waiting(bench, queue):
            replies = await queue.receive(limit=n + 3, lease=0.001)
            await asyncio.sleep(0.002 * n)
            lost = await queue.acknowledge(replies)
            done += [r.command_id for r in replies if r not in lost]
        return done

    async with asyncio.timeout(PATIENCE):
        shares = await asyncio.gather(*[consume(n) for n in range(4)])
    done = [command_id for share in shares for command_id in share]
    assert len(done) == len(set(done)) == 40


@asynccontextmanager
async def listening(
    queue: ReplyQueue, stop: asyncio.Event | None = None, **options: Any
) -> AsyncIterator["asyncio.Queue[list[ReceivedReply]]"]:
    """Listen and acknowledge while the block runs; what came is in the queue."""
    came: asyncio.Queue[list[ReceivedReply]] = asyncio.Queue()

    async def consume() -> None:
        async with aclosing(queue.listen(stop=stop, **options)) as batches:
            async for replies in batches:
                assert await queue.acknowledge(replies) == []
                came.put_nowait(replies)

    task = asyncio.create_task(consume())
    try:
        yield came
    finally:
        if stop is None:
            task.cancel()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(task, return_exceptions=stop is None)


async def until_listening(bench: Bench, queue: ReplyQueue) -> None:
    async def look() -> bool | None:
        return bool(await bench.execute(LISTENERS, f'LISTEN "{reply_channel(queue.reply_to)}"')) or None

    await eventually(look, "a listening session")


async def test_a_listening_consumer_is_woken_by_a_reply(bench: Bench) -> None:
    queue = make_queue(bench)
    early = await answered(bench, queue, {}, {}, {})
    async with listening(queue, limit=2, poll_interval=NEVER) as came, asyncio.timeout(PATIENCE):
        assert [r.command_id for r in await came.get() + await came.get()] == early  # what was there already

        await until_listening(bench, queue)
        for _ in range(3):
            (command_id,) = await answered(bench, queue, {})
            assert [r.command_id for r in await came.get()] == [command_id]


async def test_a_listening_consumer_receives_what_is_released(bench: Bench) -> None:
    queue = make_queue(bench)
    (command_id,) = await answered(bench, queue, {})
    held = await queue.receive(lease=LONG)
    async with listening(queue, poll_interval=NEVER) as came, asyncio.timeout(PATIENCE):
        await until_listening(bench, queue)
        assert came.empty()
        await queue.release(held)
        assert [r.command_id for r in await came.get()] == [command_id]


async def test_polling_finds_replies_and_ended_leases_without_notifications(bench: Bench) -> None:
    queue = make_queue(bench)
    early, late = await answered(bench, queue, {}, {})
    await queue.receive(limit=1, lease=60)
    async with listening(queue, listen=False, poll_interval=0.02) as came, asyncio.timeout(PATIENCE):
        assert [r.command_id for r in await came.get()] == [late]
        await bench.skip(61)
        assert [(r.command_id, r.epoch) for r in await came.get()] == [(early, 2)]


async def test_a_stop_ends_the_listening_after_the_batch_in_hand(bench: Bench) -> None:
    queue = make_queue(bench)
    await answered(bench, queue, {}, {}, {})
    stop = asyncio.Event()
    got: list[int] = []
    async with asyncio.timeout(PATIENCE):
        async for replies in queue.listen(limit=1, stop=stop, poll_interval=NEVER):
            got.append(len(replies))
            await queue.acknowledge(replies)
            stop.set()
    assert got == [1]
    assert await waiting(bench, queue) == 2
    idle = asyncio.Event()
    async with listening(queue, idle, poll_interval=NEVER) as came, asyncio.timeout(PATIENCE):
        await came.get()
        idle.set()
    assert await waiting(bench, queue) == 0


async def test_a_consumer_outlives_the_loss_of_its_sessions(bench: Bench) -> None:
    queue = make_queue(bench)
    async with AsyncConnectionPool(
        bench.dsn, min_size=1, max_size=2, open=False, kwargs={"application_name": queue.reply_to}
    ) as pool:
        async with listening(ReplyQueue(pool, queue.reply_to), poll_interval=0.05) as came:
            async with asyncio.timeout(PATIENCE):
                await answered(bench, queue, {})
                await came.get()
                ended = await bench.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", queue.reply_to
                )
                assert len(ended) >= 2  # one of the pool's, one that listens
                (command_id,) = await answered(bench, queue, {})
                assert [r.command_id for r in await came.get()] == [command_id]


async def test_a_closed_pool_ends_the_listening(bench: Bench) -> None:
    async with AsyncConnectionPool(bench.dsn, min_size=1, max_size=2, open=False) as pool:
        queue = ReplyQueue(pool, f"shop-{bench.domain}")
    with pytest.raises(psycopg.OperationalError, match="closed"):
        async with asyncio.timeout(PATIENCE):
            await anext(queue.listen(listen=False))


class ThroughPooler(psycopg.AsyncConnection[Any]):
    """What a client of a pooling proxy sees: a process id that no server process has."""

    @property
    def info(self) -> psycopg.ConnectionInfo:
        class Info(psycopg.ConnectionInfo):
            backend_pid = 1

        return Info(self.pgconn)


async def listen_for_ever(queue: ReplyQueue) -> None:
    """Receive the same replies again and again."""
    async with asyncio.timeout(PATIENCE):
        async for _ in queue.listen(lease=0.001, poll_interval=0.01):
            pass


async def test_through_a_pooling_proxy_replies_are_polled_for(bench: Bench) -> None:
    async with AsyncConnectionPool(
        bench.dsn, connection_class=ThroughPooler, min_size=1, max_size=2, open=False
    ) as pool:
        queue = ReplyQueue(pool, f"shop-{bench.domain}")
        (command_id,) = await answered(bench, queue, {})
        with pytest.raises(ListenRefusedError, match="listen=False"):
            await listen_for_ever(queue)
        async with listening(queue, listen=False, poll_interval=0.01) as came, asyncio.timeout(PATIENCE):
            assert [r.command_id for r in await came.get()] == [command_id]


@pytest.mark.parametrize("address", ["process:Order", "", "a b", "x; DROP TABLE t; --", "é", "a" * 64, "a\0", 7])
async def test_an_address_is_a_name_that_no_process_has(bench: Bench, address: Any) -> None:
    with pytest.raises(InvalidNameError, match="reply_to"):
        await bench.send("Reserve", reply_to=address)
    with pytest.raises(InvalidNameError, match="reply_to"):
        await bench.bus.create_batch(bench.domain, [BatchCommand("Reserve", uuid4(), {}, reply_to=address)])
    with pytest.raises(InvalidNameError, match="reply_to"):
        await bench.bus.send_batch([SendRequest(bench.domain, "Reserve", uuid4(), {}, reply_to=address)])
    with pytest.raises(InvalidNameError, match="reply_to"):
        ReplyQueue(bench.pool, address)
    assert (await bench.bus.query_commands(bench.domain)).items == []


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": 1_001}, {"lease": 0}, {"lease": -1}, {"lease": math.nan}])
async def test_senseless_numbers_are_refused(bench: Bench, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        await make_queue(bench).receive(**options)


async def test_a_senseless_poll_interval_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="poll_interval must be above 0"):
        await anext(make_queue(bench).listen(poll_interval=0))


async def test_a_received_reply_is_a_value(bench: Bench) -> None:
    queue = make_queue(bench)
    await answered(bench, queue, {})
    (reply,) = await queue.receive(lease=LONG)
    forged = replace(reply, epoch=reply.epoch + 1)
    assert await queue.acknowledge([forged]) == [forged]
    assert await waiting(bench, queue) == 1
