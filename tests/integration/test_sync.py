"""The blocking bus: all of the async one, for any number of threads, in the caller's own transactions."""

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from commandbus import (
    BatchCommand,
    BatchStatus,
    CommandNotFoundError,
    CommandStatus,
    DuplicateCommandError,
    InvalidOperationError,
    InvalidPayloadError,
    SchemaError,
    SendRequest,
)
from commandbus.auditor import Violation, audit
from commandbus.process import ProcessStatus
from commandbus.sync import SyncCommandBus, connect
from tests.integration.sync_kit import TABLE, HookedProcess, OrderProcess, count, make_app, until, working

ONE = {"domain": "orders", "command_type": "Ship"}


@pytest.fixture
def dsn(e2e_dsn: str) -> Iterator[str]:
    """A database with a table of the application's; the auditor looks at it when the test has ended."""
    with psycopg.connect(e2e_dsn) as conn:
        conn.execute(TABLE)
    yield e2e_dsn

    async def look() -> list[Violation]:
        async with await psycopg.AsyncConnection.connect(e2e_dsn) as conn:
            return await audit(conn)

    assert asyncio.run(look()) == []


@pytest.fixture
def bus(dsn: str) -> Iterator[SyncCommandBus]:
    with connect(dsn, app=make_app(), max_size=4) as bus:
        yield bus


def send(bus: SyncCommandBus, order: int = 1, **options: Any) -> UUID:
    return bus.send(**ONE, command_id=uuid4(), data={"order": order}, **options)


def test_a_script_sends_starts_operates_and_reads_what_became_of_it(dsn: str, bus: SyncCommandBus) -> None:
    with working(dsn, make_app()):
        command_id = send(bus, 7, reply_to="script")
        process_id = bus.process(OrderProcess).start({"order": 26})
        other_id = bus.process("Order").start({"order": 2})
        parked = until(lambda: bus.troubleshooting.list_troubleshooting(domain="orders").items, "the parked order")[0]
        bus.troubleshooting.operator_complete(parked.command_id, {"parcel": "by hand"}, operator="anna", reason="belt")
        until(lambda: ended(bus, process_id) and ended(bus, other_id), "both processes")
        until(lambda: bus.get_command(command_id).status is CommandStatus.COMPLETED, "the command")
    process = bus.processes.get(process_id)
    assert process is not None
    assert process.state == {"order": 26, "parcel": "by hand"}
    assert [entry.step for entry in bus.processes.get_audit_trail(process_id)] == ["Reserve", "Ship"]
    assert [event.event_type for event in bus.get_audit_trail(command_id)] == ["SENT", "RECEIVED", "COMPLETED"]
    replies = bus.replies("script")
    (reply,) = replies.receive()
    assert (reply.command_id, reply.result) == (command_id, {"parcel": "P7"})
    assert replies.acknowledge([reply]) == []
    assert replies.receive() == []


def ended(bus: SyncCommandBus, process_id: UUID) -> bool:
    process = bus.processes.get(process_id)
    return process is not None and process.status is ProcessStatus.COMPLETED


def test_errors_are_those_of_the_async_bus(bus: SyncCommandBus) -> None:
    command_id = send(bus)
    with pytest.raises(DuplicateCommandError) as raised:
        bus.send(**ONE, command_id=command_id, data={"order": 1})
    assert raised.value.same_payload is True
    with pytest.raises(InvalidPayloadError, match=r"data\.x|x"):
        bus.send(**ONE, command_id=uuid4(), data={"x": float("nan")})
    with pytest.raises(CommandNotFoundError):
        bus.get_command(uuid4())
    with pytest.raises(TypeError, match="missing a required argument: 'data'"):
        bus.send(**ONE, command_id=uuid4())  # type: ignore[call-arg]
    with (
        closing(sqlite3.connect(":memory:")) as conn,
        pytest.raises(TypeError, match=r"conn is a sqlite3\.Connection; give the"),
    ):
        send(bus, conn=conn)
    with pytest.raises(InvalidOperationError, match=r"no process manager of type 'Nope' \(it has Hooked, Order\)"):
        bus.process("Nope").start({})
    with pytest.raises(ValueError, match="chunk_size must be at least 1, not 0"):
        bus.process(OrderProcess).start_many([{}], chunk_size=0)
    with pytest.raises(ValueError, match="chunk_size must be at least 1, not 0"):
        bus.send_batch(iter([]), chunk_size=0)


def test_a_connection_of_the_caller_s_own_takes_part_and_a_rollback_leaves_nothing(
    dsn: str, bus: SyncCommandBus
) -> None:
    """The outbox: the order and its command commit together or not at all."""
    with psycopg.connect(dsn) as conn:
        conn.execute("INSERT INTO public.orders VALUES (1)")
        command_id = send(bus, conn=conn)
        process_id = bus.process(OrderProcess).start({"order": 1}, conn=conn)
        assert bus.get_command(command_id, conn=conn).status is CommandStatus.PENDING
        with pytest.raises(CommandNotFoundError):
            bus.get_command(command_id)
        conn.rollback()
    assert [count(dsn, table) for table in ("command", "queue", "event", "process", "orders")] == [0, 0, 0, 0, 0]

    with psycopg.connect(dsn) as conn:
        conn.execute("INSERT INTO public.orders VALUES (1)")
        command_id = send(bus, conn=conn)
        process_id = bus.process(OrderProcess).start({"order": 1}, conn=conn)
    assert bus.get_command(command_id).data == {"order": 1}
    assert bus.processes.get(process_id) is not None
    assert count(dsn, "orders") == 1


def test_an_error_undoes_only_its_own_part_of_the_caller_s_transaction(dsn: str, bus: SyncCommandBus) -> None:
    command_id = send(bus)
    with psycopg.connect(dsn) as conn, conn.transaction():
        conn.execute("INSERT INTO public.orders VALUES (1)")
        with pytest.raises(DuplicateCommandError):
            bus.send(**ONE, command_id=command_id, data={"order": 2}, conn=conn)
        with pytest.raises(InvalidOperationError, match="only one in the troubleshooting queue"):
            bus.troubleshooting.operator_retry(command_id, conn=conn)
        conn.execute("INSERT INTO public.orders VALUES (2)")
    assert count(dsn, "orders") == 2


def test_an_autocommit_connection_and_one_with_rows_of_its_own_kind_will_do(dsn: str, bus: SyncCommandBus) -> None:
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as conn:
        command_id = send(bus, conn=conn)
        assert bus.get_command(command_id).command_id == command_id
        batch_id = bus.create_batch("orders", [BatchCommand("Ship", uuid4(), {"order": 2})], conn=conn)
        assert bus.get_batch("orders", batch_id, conn=conn).total_count == 1
        with pytest.raises(ZeroDivisionError), conn.transaction():
            raise ZeroDivisionError(send(bus, conn=conn))
        assert conn.row_factory is dict_row
    assert count(dsn, "command") == 2


def test_hooks_run_their_statements_in_the_caller_s_transaction(dsn: str, bus: SyncCommandBus) -> None:
    with psycopg.connect(dsn) as conn:
        bus.process(HookedProcess).start({"order": 1}, conn=conn)
        failed_id = bus.process(HookedProcess).start({"order": 101}, conn=conn)
        failed = bus.processes.get(failed_id, conn=conn)
        assert failed is not None
        assert (failed.status, "too large an order" in (failed.error_message or "")) == (ProcessStatus.FAILED, True)
        assert conn.execute("SELECT n FROM public.orders").fetchall() == [(1,)]
        conn.rollback()
    assert [count(dsn, table) for table in ("command", "process", "orders")] == [0, 0, 0]


def test_a_hook_has_all_of_a_connection_of_the_caller_s(dsn: str, bus: SyncCommandBus) -> None:
    found: dict[str, Any] = {}

    class Curious(OrderProcess):
        async def before_send_commands(self, items: Any, conn: Any) -> None:
            found["rows"] = [n async for (n,) in await conn.execute("SELECT generate_series(1, 3)")]
            async with conn.cursor(row_factory=dict_row) as cursor, conn.pipeline():
                found["dict"] = await (await cursor.execute("SELECT 1 AS one")).fetchone()
            with suppress(ZeroDivisionError):
                async with conn.transaction():
                    await conn.execute("INSERT INTO public.orders VALUES (7)")
                    raise ZeroDivisionError
            async with conn.cursor() as cursor:
                async with cursor.copy("COPY public.orders FROM STDIN") as copy:
                    await copy.write_row((8,))
                async with cursor.copy("COPY public.orders TO STDOUT") as copy:
                    found["copied"] = [row async for row in copy.rows()]
                found["own"] = cursor.connection.info.dbname == conn.info.dbname
            with suppress(ZeroDivisionError):
                await asyncio.gather(conn.execute("SELECT 1"), self._fail())

        async def _fail(self) -> None:
            raise ZeroDivisionError

    with connect(dsn) as other:
        for lent in (psycopg.connect(dsn), other.transaction()):
            with lent as conn:
                process_id = bus.process(Curious).start({"order": 1}, conn=conn)
                process = bus.processes.get(process_id, conn=conn)
                conn.execute("DELETE FROM public.orders")
            assert process is not None
            assert process.error_message is None
            assert found == {"rows": [1, 2, 3], "dict": {"one": 1}, "copied": [("8",)], "own": True}


def test_every_statement_on_a_caller_s_connection_is_run_by_the_caller_s_thread(dsn: str, bus: SyncCommandBus) -> None:
    """So that what belongs to the thread (Ctrl-C, time limits, a framework's checks) goes on as ever."""
    threads: set[str] = set()

    class Watched(psycopg.Cursor[Any]):
        def execute(self, *args: Any, **kwargs: Any) -> Any:
            threads.add(threading.current_thread().name)
            return super().execute(*args, **kwargs)

    def work() -> None:
        with psycopg.connect(dsn, cursor_factory=Watched) as conn:
            send(bus, conn=conn)
            bus.process(HookedProcess).start({"order": 3}, conn=conn)

    thread = threading.Thread(target=work, name="the view's")
    thread.start()
    thread.join()
    assert threads == {"the view's"}
    assert count(dsn, "process") == 1


def test_a_transaction_of_the_bus_holds_the_caller_s_sql_as_well(dsn: str, bus: SyncCommandBus) -> None:
    with suppress(ZeroDivisionError), bus.transaction() as conn:
        conn.execute("INSERT INTO public.orders VALUES (1)")
        send(bus, conn=conn)
        raise ZeroDivisionError
    assert [count(dsn, "command"), count(dsn, "orders")] == [0, 0]
    with bus.transaction() as conn:
        (number,) = conn.execute("INSERT INTO public.orders VALUES (%s) RETURNING n", (5,)).fetchone() or (0,)
        command_id = send(bus, number, conn=conn)
    assert bus.get_command(command_id).data == {"order": 5}
    assert count(dsn, "orders") == 1


def test_a_transaction_of_one_bus_may_be_lent_to_another(dsn: str, bus: SyncCommandBus) -> None:
    """Each has a loop of its own, as has a worker whose plain handler sends in its own transaction."""
    with connect(dsn, app=make_app()) as other:
        with suppress(ZeroDivisionError), bus.transaction() as conn:
            other.process(HookedProcess).start({"order": 3}, conn=conn)
            raise ZeroDivisionError(send(other, conn=conn))
        assert [count(dsn, "command"), count(dsn, "orders")] == [0, 0]
        with bus.transaction() as conn:
            command_id = send(other, conn=conn)
            other.process(HookedProcess).start({"order": 3}, conn=conn)
        assert other.get_command(command_id).status is CommandStatus.PENDING
    assert count(dsn, "orders") == 1


def test_sixteen_threads_share_one_bus(dsn: str, bus: SyncCommandBus) -> None:
    together = threading.Barrier(16)
    portals = [t for t in threading.enumerate() if t.name == "commandbus-portal"]

    def work(thread: int) -> list[UUID]:
        together.wait()
        sent = [send(bus, thread) for _ in range(5)]
        with bus.transaction() as conn:
            sent.append(send(bus, thread, conn=conn))
        with psycopg.connect(dsn) as own:
            sent.append(send(bus, thread, conn=own))
            bus.process(HookedProcess).start({"order": thread}, conn=own)
        with pytest.raises(ZeroDivisionError), bus.transaction() as conn:
            raise ZeroDivisionError(send(bus, thread, conn=conn))
        assert {bus.get_command(command_id).data["order"] for command_id in sent} == {thread}
        return sent

    with ThreadPoolExecutor(16) as threads:
        sent = [command_id for ids in threads.map(work, range(16)) for command_id in ids]
    assert len(set(sent)) == 16 * 7
    assert count(dsn, "command") == 16 * 7 + 16
    assert count(dsn, "orders") == 16
    assert [t for t in threading.enumerate() if t.name == "commandbus-portal"] == portals


def test_what_is_read_lazily_and_what_is_told_on_the_way_may_use_the_bus(dsn: str, bus: SyncCommandBus) -> None:
    here = threading.get_ident()
    told: list[tuple[int, int, bool]] = []
    batch_id = bus.create_process_batch("orders", 5)

    def orders() -> Iterator[dict[str, Any]]:
        with bus.transaction() as conn:
            for (n,) in conn.execute("SELECT generate_series(1, 5)"):
                yield {"order": n}

    def tell(done: int) -> None:
        told.append((done, bus.get_batch("orders", batch_id).total_count, threading.get_ident() == here))

    assert bus.process(OrderProcess).start_many(orders(), batch_id, on_progress=tell, chunk_size=2) == 5
    assert told == [(2, 5, True), (4, 5, True), (5, 5, True)]
    assert [p.ordinal for p in bus.processes.of_batch(batch_id)] == [0, 1, 2, 3, 4]

    told.clear()
    cancelled = bus.cancel_batch("orders", batch_id, operator="anna", on_progress=tell)
    assert (cancelled.canceled, cancelled.in_flight) == (5, 0)
    assert [(done, there) for done, _, there in told] == [(5, True)]
    assert bus.get_batch("orders", batch_id).status is BatchStatus.COMPLETED_WITH_FAILURES
    requests = (
        SendRequest("orders", "Ship", uuid4(), {"order": bus.get_batch("orders", batch_id).total_count}) for _ in "abc"
    )
    assert bus.send_batch(requests, chunk_size=2) == 3


def test_what_a_listener_raises_ends_the_call(dsn: str, bus: SyncCommandBus) -> None:
    """Also what the loop would tell it of meanwhile, which is ahead of a slow listener."""
    batch_id = bus.create_process_batch("orders", 2_100)
    bus.process(OrderProcess).start_many(({"order": n} for n in range(2_100)), batch_id)
    calls: list[int] = []

    def fail(done: int) -> None:
        calls.append(done)
        until(lambda: bus.get_batch("orders", batch_id).canceled_count >= 2_000, "two chunks")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        bus.cancel_batch("orders", batch_id, on_progress=fail)
    assert calls == [1_000]


def test_replies_are_listened_for_until_somebody_stops_it(dsn: str, bus: SyncCommandBus) -> None:
    replies = bus.replies("listener")
    sent = {send(bus, n, reply_to="listener") for n in (1, 2, 3)}
    received: list[UUID] = []
    with working(dsn, make_app()):
        for group in replies.listen():
            assert replies.acknowledge(group) == []
            received += [reply.command_id for reply in group]
            if len(received) == 3:
                threading.Timer(0.05, replies.stop).start()
    assert set(received) == sent


def test_a_thread_that_runs_a_loop_is_told_what_to_use_instead(dsn: str, bus: SyncCommandBus) -> None:
    async def view() -> None:
        for name, call in {
            "CommandBus.send": lambda: send(bus),
            "TroubleshootingQueue.operator_retry": lambda: bus.troubleshooting.operator_retry(uuid4()),
            "BaseProcessManager.start": lambda: bus.process(OrderProcess).start({}),
            "SyncCommandBus.transaction": bus.transaction,
            "SyncCommandBus.open": SyncCommandBus(dsn).open,
        }.items():
            with pytest.raises(
                InvalidOperationError, match=rf"^{name} was called in its blocking form .* await {name} "
            ):
                call()
        assert count(dsn, "command") == 0
        await asyncio.to_thread(send, bus)

    asyncio.run(view())
    assert count(dsn, "command") == 1


def test_it_opens_at_the_first_call_and_closes_for_good_until_it_is_opened_again(dsn: str) -> None:
    before = set(threading.enumerate())
    bus = SyncCommandBus(dsn)
    assert set(threading.enumerate()) == before
    send(bus)
    assert {t.name for t in set(threading.enumerate()) - before} == {"commandbus-portal"}
    bus.close()
    bus.close()
    assert set(threading.enumerate()) == before
    with pytest.raises(InvalidOperationError, match=r"this bus is closed: open\(\) it again"):
        send(bus)
    with bus.open():
        send(bus)
    assert set(threading.enumerate()) == before
    assert count(dsn, "command") == 2


def test_a_close_ends_what_other_threads_have_under_way(dsn: str) -> None:
    bus = connect(dsn)
    errors: list[str] = []
    sleeping, inside = threading.Event(), threading.Event()

    def sleep() -> None:
        try:
            with bus.transaction() as conn:
                sleeping.set()
                conn.execute("SELECT pg_sleep(60)")
        except InvalidOperationError as error:
            errors.append(str(error))

    def hold() -> None:
        try:
            with bus.transaction() as conn:
                send(bus, conn=conn)
                inside.set()
                closed.wait(20)
        except InvalidOperationError as error:
            errors.append(str(error))

    closed = threading.Event()
    threads = [threading.Thread(target=sleep), threading.Thread(target=hold)]
    for thread in threads:
        thread.start()
    assert sleeping.wait(20)
    assert inside.wait(20)
    bus.close()
    closed.set()
    for thread in threads:
        thread.join(20)
    assert errors == ["the portal to the event loop is closed; what was under way is rolled back"] * 2
    assert count(dsn, "command") == 0


def test_a_database_that_is_away_or_not_migrated_is_told_at_once(dsn: str, empty_dsn: str) -> None:
    before = set(threading.enumerate())
    with pytest.raises(psycopg.OperationalError, match='database "nowhere" does not exist'):
        connect(psycopg.conninfo.make_conninfo(dsn, dbname="nowhere"))
    with pytest.raises(SchemaError, match="migrate"):
        connect(empty_dsn)
    with pytest.raises(ValueError, match="max_size must be at least 1, not 0"):
        connect(dsn, max_size=0)
    assert set(threading.enumerate()) == before
