"""How processes start: one or many, with a batch, in the caller's transaction, and when something fails."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
import pytest_asyncio

from commandbus.errors import InvalidPayloadError
from commandbus.process import ProcessMetadata, ProcessRepository, ProcessStatus
from tests.integration.process_kit import OrderProcess, make_manager, open_hand, process_of, steps_of
from tests.integration.worker_kit import Bench

pytestmark = pytest.mark.asyncio

ROWS = """
    SELECT p.process_type, p.status, p.current_step, p.state::text, p.visits::text, p.batch_id, p.error_code,
           p.error_message, p.completed_at IS NULL, p.command_id IS NOT DISTINCT FROM c.command_id, c.command_type,
           c.payload::text, c.step, c.visit, c.compensates, c.status, c.max_attempts,
           c.correlation_id IS NOT DISTINCT FROM CASE WHEN c.command_id IS NOT NULL THEN p.process_id END,
           (SELECT array_agg(e.type) FROM commandbus.event e WHERE e.command_id = c.command_id),
           (SELECT count(*) FROM commandbus.queue q WHERE q.command_id = c.command_id)
      FROM commandbus.process p LEFT JOIN commandbus.command c ON c.process_id = p.process_id
     WHERE p.domain = %s AND p.process_type = %s ORDER BY (p.state ->> 'order')::integer"""


async def ordinals(bench: Bench) -> list[int]:
    rows = await bench.execute(
        "SELECT ordinal FROM commandbus.process WHERE domain = %s ORDER BY ordinal, process_id", bench.domain
    )
    return [row[0] for row in rows]


async def count(bench: Bench) -> int:
    rows = await bench.execute("SELECT count(*) FROM commandbus.process WHERE domain = %s", bench.domain)
    return int(rows[0][0])


@pytest.mark.parametrize("batch_id", [None, UUID(int=77)])
async def test_a_start_stores_the_process_with_its_batch_and_its_first_command(
    bench: Bench, batch_id: UUID | None
) -> None:
    manager = make_manager(bench)
    process_id = await manager.start({"order": 7}, batch_id=batch_id)
    process = await process_of(bench, process_id)
    assert (process.status, process.current_step) == (ProcessStatus.WAITING_FOR_REPLY, "Reserve")
    assert (process.batch_id, process.ordinal, process.domain) == (batch_id, None, bench.domain)
    assert process.state == {"order": 7, "path": ["Reserve", "Pay", "Ship"], "results": []}
    assert process.created_at == process.updated_at
    (entry,) = await ProcessRepository(bench.pool).get_audit_trail(process_id)
    command = await bench.bus.get_command(entry.command_id)
    assert (command.command_type, command.data) == ("Reserve", {"order": 7, "results": 0})
    assert (command.correlation_id, command.process_id, command.batch_id) == (process_id, process_id, None)
    assert await bench.trail(entry.command_id) == ["SENT"]


@pytest.mark.parametrize("batch_id", [None, uuid4()])
async def test_a_saved_process_comes_back_as_it_was(bench: Bench, batch_id: UUID | None) -> None:
    repository = ProcessRepository(bench.pool)
    process = ProcessMetadata(
        uuid4(), bench.domain, "Kept", ProcessStatus.PENDING, "Reserve", {"π": [1, None, 10**30]}, batch_id, 3, "E", "m"
    )
    await repository.save(process)
    stored = await repository.get(process.process_id)
    assert stored is not None
    assert stored.created_at is not None
    process.created_at, process.updated_at = stored.created_at, stored.updated_at
    assert stored == process
    if batch_id is not None:
        assert await repository.of_batch(batch_id) == [process]
        assert await repository.of_batch(batch_id, ProcessStatus.FAILED) == []
    with pytest.raises(InvalidPayloadError, match="state"):
        await repository.save(ProcessMetadata(uuid4(), bench.domain, "Kept", state={"x": float("nan")}))
    await bench.execute("DELETE FROM commandbus.process WHERE process_id = %s", process.process_id)


async def test_a_process_that_is_not_there_is_none(bench: Bench) -> None:
    assert await ProcessRepository(bench.pool).get(uuid4()) is None


async def test_a_start_in_a_transaction_that_is_rolled_back_leaves_nothing(bench: Bench) -> None:
    manager = make_manager(bench)
    async with bench.pool.connection() as conn:
        rolled_back = await manager.start({}, conn=conn)
        await conn.rollback()
    async with bench.pool.connection() as conn, conn.transaction(force_rollback=True):
        await manager.start({}, conn=conn)
    assert await count(bench) == 0
    tables = ("command", "queue")
    for table in tables:
        query = psycopg.sql.SQL("SELECT count(*) FROM commandbus.{} WHERE domain = %s").format(
            psycopg.sql.Identifier(table)
        )
        async with bench.pool.connection() as conn:
            assert await (await conn.execute(query, (bench.domain,))).fetchone() == (0,)
    assert await steps_of(bench, rolled_back) == []


async def test_a_start_in_a_transaction_that_commits_is_there_with_what_the_caller_wrote(bench: Bench) -> None:
    manager = make_manager(bench)
    async with bench.pool.connection() as conn:
        first = await manager.start({"order": 1}, conn=conn)
        with pytest.raises(InvalidPayloadError):
            await manager.start({"order": float("nan")}, conn=conn)  # the caller's transaction can go on
        second = await manager.start({"order": 2}, conn=conn)
    assert [(await process_of(bench, p)).state["order"] for p in (first, second)] == [1, 2]


class Sometimes(OrderProcess):
    """Refuses what is divisible by 5 while it decides, and hooks what is divisible by 3."""

    def get_first_step(self, state: Any) -> str:
        if state.order % 5 == 0:
            raise ValueError(f"order {state.order} is divisible by 5")
        return super().get_first_step(state)

    async def before_send_command(self, process: Any, step: str, command_id: UUID, payload: Any, conn: Any) -> None:
        if process.state["order"] % 3 == 0:
            raise LookupError(f"order {process.state['order']} is divisible by 3")


@pytest.mark.parametrize("kind", [OrderProcess, Sometimes])
async def test_many_are_started_as_one_after_another_would_be(bench: Bench, kind: type[OrderProcess]) -> None:
    orders = [{"order": n} for n in range(1, 33)]
    bulk, loop = make_manager(bench, kind), make_manager(bench, kind, process_type=f"loop-{bench.domain[1:13]}")
    batch_id = uuid4()
    assert await bulk.start_many(orders, batch_id=batch_id, chunk_size=10) == 32
    for order in orders:
        await loop.start(order, batch_id=batch_id)
    one_by_one = await bench.execute(ROWS, bench.domain, loop.process_type)
    in_bulk = await bench.execute(ROWS, bench.domain, bulk.process_type)
    assert len(in_bulk) == 32
    assert [row[1:] for row in in_bulk] == [row[1:] for row in one_by_one]
    failed = {row[3] for row in in_bulk if row[1] == "FAILED"}
    assert len(failed) == (0 if kind is OrderProcess else 14)


async def test_many_start_in_chunks_of_a_transaction_each_and_tell_how_far_they_are(bench: Bench) -> None:
    manager = make_manager(bench)
    drawn = 0
    seen: list[tuple[int, int]] = []

    def endless() -> Iterator[dict[str, Any]]:
        nonlocal drawn
        for drawn in range(1, 26):
            yield {"order": drawn}

    started = await manager.start_many(endless(), uuid4(), on_progress=lambda n: seen.append((n, drawn)), chunk_size=10)
    assert started == 25
    assert seen == [(10, 20), (20, 25), (25, 25)]  # while a chunk is stored the next one is drawn, and no more
    times = await bench.execute(
        "SELECT count(*) FROM commandbus.process WHERE domain = %s GROUP BY created_at ORDER BY created_at",
        bench.domain,
    )
    assert [row[0] for row in times] == [10, 10, 5]
    assert await ordinals(bench) == list(range(25))


async def test_in_the_callers_transaction_nobody_sees_any_before_it_commits(bench: Bench) -> None:
    manager, told = make_manager(bench), list[int]()
    async with bench.pool.connection() as conn:
        for outcome, stored in ((ZeroDivisionError, 0), (None, 25)):
            with suppress(ZeroDivisionError):
                async with conn.transaction():
                    orders = ({"order": n} for n in range(25))
                    await manager.start_many(orders, uuid4(), on_progress=told.append, chunk_size=10, conn=conn)
                    assert await ordinals(bench) == []
                    if outcome is not None:
                        raise outcome
            assert await ordinals(bench) == list(range(stored))
    assert told == [10, 20, 25] * 2


async def test_none_at_all_is_no_error(bench: Bench) -> None:
    assert await make_manager(bench).start_many([], uuid4(), on_progress=lambda n: pytest.fail("nothing moved")) == 0
    with pytest.raises(ValueError, match="chunk_size must be at least 1, not 0"):
        await make_manager(bench).start_many([{}], chunk_size=0)


async def test_a_failing_item_names_its_ordinal_and_the_run_is_resumed_there(bench: Bench) -> None:
    manager = make_manager(bench)
    batch_id = uuid4()
    orders: list[dict[str, Any]] = [{"order": n} for n in range(30)]
    orders[17] = {"order": float("nan")}
    done: list[int] = []
    with pytest.raises(InvalidPayloadError, match=r"state\.order: NaN") as caught:
        await manager.start_many(orders[5:], batch_id, first_ordinal=5, on_progress=done.append, chunk_size=10)
    assert "process 17 " in "".join(caught.value.__notes__)
    assert done == [10]
    assert await ordinals(bench) == list(range(5, 15))  # whole chunks or nothing
    orders[17] = {"order": 17}
    first = 5 + done[-1]
    assert await manager.start_many(orders[first:], batch_id, first_ordinal=first) == 15
    assert await ordinals(bench) == list(range(5, 30))
    states = await ProcessRepository(bench.pool).of_batch(batch_id)
    assert [p.state["order"] for p in states] == [p.ordinal for p in states] == list(range(5, 30))


async def test_the_hook_sees_many_at_once_each_as_it_will_be_stored(bench: Bench) -> None:
    calls: list[list[Any]] = []

    async def record(self: Any, items: Any, conn: Any) -> None:
        calls.append(list(items))
        cursor = await conn.execute(
            "SELECT count(*) FROM commandbus.command WHERE command_id = ANY(%s)", ([i.command_id for i in items],)
        )
        assert await cursor.fetchone() == (0,)  # before they are stored

    manager = make_manager(bench, before_send_commands=record)
    batch_id = uuid4()
    await manager.start_many([{"order": n} for n in range(25)], batch_id, chunk_size=20)
    assert [len(items) for items in calls] == [20, 5]
    for item in (item for items in calls for item in items):
        stored = await process_of(bench, item.process.process_id)
        seen = item.process
        seen.created_at, seen.updated_at = stored.created_at, stored.updated_at
        assert seen == stored
        command = await bench.bus.get_command(item.command_id)
        assert (command.step, command.data, command.process_id) == (item.step, item.payload, seen.process_id)


async def test_by_default_the_bulk_hook_calls_the_single_one_for_each(bench: Bench) -> None:
    calls: list[tuple[Any, ...]] = []

    async def record(self: Any, process: Any, step: str, command_id: UUID, payload: Any, conn: Any) -> None:
        assert conn.info.transaction_status.name == "INTRANS"
        calls.append((process.process_id, process.ordinal, step, command_id, payload))

    manager = make_manager(bench, before_send_command=record)
    await manager.start_many([{"order": n} for n in range(3)], uuid4(), first_ordinal=40)
    assert [(c[1], c[2], c[4]) for c in calls] == [(40 + n, "Reserve", {"order": n, "results": 0}) for n in range(3)]
    for process_id, _, step, command_id, _ in calls:
        assert (await process_of(bench, process_id)).current_step == step
        assert (await bench.bus.get_command(command_id)).process_id == process_id


@pytest_asyncio.fixture
async def notes_table(bench: Bench) -> None:
    await bench.execute("CREATE TABLE IF NOT EXISTS public.hook_notes (domain text, note text)")


async def notes(bench: Bench) -> list[str]:
    rows = await bench.execute("SELECT note FROM public.hook_notes WHERE domain = %s ORDER BY note", bench.domain)
    return [row[0] for row in rows]


def noting(bench: Bench, breaks: Any) -> Any:
    """A hook that writes a note for each item, and for those that `breaks` picks does something wrong after it."""

    async def hook(self: Any, process: Any, step: str, command_id: UUID, payload: Any, conn: Any) -> None:
        note = f"{process.state['order']} {step}"
        await conn.execute("INSERT INTO public.hook_notes VALUES (%s, %s)", (bench.domain, note))
        await breaks(process.state["order"], conn)

    return hook


async def raises(order: int, conn: Any) -> None:
    if order == 1:
        raise LookupError("by the hook")


async def breaks_sql(order: int, conn: Any) -> None:
    if order == 1:
        await conn.execute("SELECT 1/0")


async def swallows(order: int, conn: Any) -> None:
    if order == 1:
        with pytest.raises(psycopg.errors.DivisionByZero):
            await conn.execute("SELECT 1/0")


async def exits(order: int, conn: Any) -> None:
    if order == 1:
        raise SystemExit(1)


async def cannot_reach_another_server(order: int, conn: Any) -> None:
    if order == 1:
        await psycopg.AsyncConnection.connect("host=/nowhere/at/all connect_timeout=1")


BREAKAGES = [raises, breaks_sql, swallows, exits, cannot_reach_another_server]


@pytest.mark.usefixtures("notes_table")
@pytest.mark.parametrize("breaks", BREAKAGES)
async def test_a_hook_that_fails_for_one_process_fails_that_one_only(bench: Bench, breaks: Any) -> None:
    manager = make_manager(bench, before_send_command=noting(bench, breaks))
    batch_id = uuid4()
    assert await manager.start_many([{"order": n} for n in range(3)], batch_id) == 3
    zero, one, two = await ProcessRepository(bench.pool).of_batch(batch_id)
    assert (zero.status, one.status, two.status) == ("WAITING_FOR_REPLY", "FAILED", "WAITING_FOR_REPLY")
    assert (one.error_code, one.completed_at) == ("PROCESS_DECISION_FAILED", one.created_at)
    assert (one.error_message or "").startswith("before_send_commands raised ")
    assert await steps_of(bench, one.process_id) == []
    assert await notes(bench) == ["0 Reserve", "2 Reserve"]  # what it wrote for the failed one is gone


@pytest.mark.usefixtures("notes_table")
@pytest.mark.parametrize("breaks", BREAKAGES)
async def test_a_hook_that_fails_while_many_are_settled_fails_that_one_only(bench: Bench, breaks: Any) -> None:
    hook = noting(bench, breaks)

    async def from_the_second_step(self: Any, process: Any, step: str, *rest: Any) -> None:
        if step != "Reserve":
            await hook(self, process, step, *rest)

    manager = make_manager(bench, before_send_command=from_the_second_step)
    batch_id = uuid4()
    await manager.start_many([{"order": n} for n in range(3)], batch_id)
    async with open_hand(bench, manager) as hand:
        claims = await hand.claim(3)
        assert await hand.settle(*[(claimed, {"n": n}) for n, claimed in enumerate(claims)]) == set()
        zero, one, two = await ProcessRepository(bench.pool).of_batch(batch_id)
        assert (zero.status, one.status, two.status) == ("WAITING_FOR_REPLY", "FAILED", "WAITING_FOR_REPLY")
        assert (zero.current_step, two.current_step) == ("Pay", "Pay")
        assert one.state["results"] == [{"n": 1}]  # what the reply brought is kept
        assert await steps_of(bench, one.process_id) == [("Reserve", 1, "COMPLETED")]
        assert await notes(bench) == ["0 Pay", "2 Pay"]
        assert len(await hand.claim(10)) == 2
