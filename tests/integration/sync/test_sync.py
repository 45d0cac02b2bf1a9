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

from commandbus import (
    BatchStatus,
    CommandNotFoundError,
    CommandStatus,
    DuplicateCommandError,
    InvalidOperationError,
    InvalidPayloadError,
    SchemaError,
    SendRequest,
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
    until,
    working,
)


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
    with suppress(ZeroDivisionError), bus.transaction() as conn:
        assert bus.process(OrderProcess).start_many([{"order": 1}] * 5, batch_id, 5, chunk_size=2, conn=conn) == 5
        raise ZeroDivisionError  # undoes all of them
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
