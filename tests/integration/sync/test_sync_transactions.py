"""The blocking bus in transactions: the caller's own, and its own that hold the caller's SQL."""

import asyncio
import threading
from contextlib import suppress
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.rows import dict_row

from commandbus import (
    BatchCommand,
    CommandNotFoundError,
    CommandStatus,
    DuplicateCommandError,
    InvalidOperationError,
)
from commandbus.process import ProcessStatus
from commandbus.sync import SyncCommandBus, connect
from tests.integration.sync.sync_kit import (
    ONE,
    HookedProcess,
    OrderProcess,
    count,
    make_app,
    send,
)


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
