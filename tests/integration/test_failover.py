"""A primary that is gone or demoted: whoever has a DSN of several hosts goes on with the one that takes writes."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

from commandbus import App, Command, CommandBus, CommandStatus, HandlerContext, Worker, migrate
from commandbus.auditor import audit, format_violations
from pytest_commandbus.postgres.server import EmbeddedPostgres
from tests.integration.cli_kit import worker
from tests.integration.worker_kit import PATIENCE, eventually

APP = """
from commandbus import App

app = App()

@app.handler("orders", "Count")
async def count(command, context):
    return {"number": command.data["number"]}
"""

_SYNCHRONOUS = """
    SELECT true FROM pg_stat_replication WHERE sync_state = 'sync'"""
_WALSENDER = "SELECT pid FROM pg_stat_replication WHERE state = 'streaming'"
_WAITS_FOR_STANDBY = """
    SELECT true FROM pg_stat_activity WHERE application_name = 'sender' AND wait_event = 'SyncRep'"""
_LEFT = "SELECT count(*) FROM commandbus.queue"


@contextmanager
def pair() -> Iterator[tuple[EmbeddedPostgres, EmbeddedPostgres, str]]:
    """A migrated primary, a standby that acknowledges each commit, and a DSN of both."""
    with EmbeddedPostgres(crash_safe=True) as primary:
        migrate(primary.dsn())
        with EmbeddedPostgres(crash_safe=True, standby_of=primary) as standby:
            yield primary, standby, both(primary, standby)


def both(*servers: EmbeddedPostgres) -> str:
    parts = [psycopg.conninfo.conninfo_to_dict(server.dsn()) for server in servers]
    hosts, ports = (",".join(str(part[key]) for part in parts) for key in ("host", "port"))
    return make_conninfo(servers[0].dsn(), host=hosts, port=ports, target_session_attrs="read-write")


def make_synchronous(primary: EmbeddedPostgres) -> None:
    """From now on a commit is acknowledged once the standby has it."""
    with psycopg.connect(primary.dsn(), autocommit=True) as conn:
        conn.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        conn.execute("SELECT pg_reload_conf()")
        wait_for(lambda: conn.execute(_SYNCHRONOUS).fetchone() is not None, "the standby to be synchronous")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Poll until it holds."""
    deadline = monotonic() + 3 * PATIENCE
    while not condition():
        if monotonic() > deadline:
            raise AssertionError(f"waited {3 * PATIENCE:g} s in vain for {what}")
        sleep(0.05)


class Sender(threading.Thread):
    """Sends commands one by one, again until it is told that they are stored; knows those that were acknowledged."""

    def __init__(self, dsn: str) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[UUID] = []
        self.failures = 0
        self.is_over = threading.Event()
        self._dsn = make_conninfo(dsn, application_name="sender")

    def run(self) -> None:
        asyncio.run(self._send())

    async def _send(self) -> None:
        async with AsyncConnectionPool(self._dsn, min_size=1, max_size=2, timeout=1, reconnect_timeout=2) as pool:
            bus = CommandBus(pool)
            while not self.is_over.is_set():
                command_id = uuid4()
                data = {"number": len(self.acknowledged)}
                try:
                    await bus.send(domain="orders", command_type="Count", command_id=command_id, data=data)
                except psycopg.Error:  # PoolTimeout is one of them
                    self.failures += 1
                    await asyncio.sleep(0.02)
                else:
                    self.acknowledged.append(command_id)


@pytest.mark.slow
def test_a_promoted_standby_has_every_acknowledged_command_and_its_workers_go_on(tmp_path: Path) -> None:
    (tmp_path / "counting.py").write_text(APP)
    with pair() as (primary, standby, dsn):
        make_synchronous(primary)
        sender = Sender(dsn)
        sender.start()
        with worker(tmp_path, dsn, "--visibility-timeout", "5", application="counting:app") as running:
            wait_for(lambda: len(sender.acknowledged) >= 200, "200 sends before the end of the primary")
            primary.crash()
            wait_for(lambda: sender.failures > 0, "a send to fail")
            standby.promote()
            before = len(sender.acknowledged)
            wait_for(lambda: len(sender.acknowledged) >= before + 200, "200 sends after the promotion")
            sender.is_over.set()
            sender.join(PATIENCE)
            with psycopg.connect(standby.dsn(), autocommit=True) as conn:
                wait_for(lambda: conn.execute(_LEFT).fetchone() == (0,), "the queue to be empty")
            assert running.end(signal.SIGTERM)[0] == 0
        statuses, violations = asyncio.run(found(standby.dsn()))
    assert [i for i in sender.acknowledged if i not in statuses] == []
    assert {statuses[i] for i in sender.acknowledged} == {"COMPLETED"}
    assert not violations, violations


@pytest.mark.slow
@pytest.mark.parametrize("is_synchronous", [True, False], ids=["synchronous", "asynchronous"])
def test_what_the_standby_does_not_have_is_acknowledged_by_nobody_but_an_asynchronous_primary(
    is_synchronous: bool,
) -> None:
    """Nothing leaves the primary any more, as behind a slow network; then it is gone, and the standby takes over."""
    with pair() as (primary, standby, dsn):
        if is_synchronous:
            make_synchronous(primary)
        sender = Sender(dsn)
        with psycopg.connect(primary.dsn(), autocommit=True) as conn, psycopg.connect(standby.dsn()) as behind:
            behind.autocommit = True
            behind.execute("ALTER SYSTEM SET wal_receiver_timeout = 0")  # it asks for no second walsender
            behind.execute("SELECT pg_reload_conf()")
            wait_for(lambda: conn.execute(_WALSENDER).fetchone() is not None, "the standby to follow")
            ((walsender,),) = conn.execute(_WALSENDER).fetchall()
            os.kill(walsender, signal.SIGSTOP)
            sender.start()
            wait_for(
                lambda: len(sender.acknowledged) >= 20 or conn.execute(_WAITS_FOR_STANDBY).fetchone() is not None,
                "a send to be acknowledged, or to wait for the standby",
            )
            while_held_back = list(sender.acknowledged)
        primary.crash()
        wait_for(lambda: sender.failures > 0, "a send to fail")
        standby.promote()
        before = len(sender.acknowledged)
        wait_for(lambda: len(sender.acknowledged) >= before + 20, "20 sends after the promotion")
        sender.is_over.set()
        sender.join(PATIENCE)
        statuses, _ = asyncio.run(found(standby.dsn()))
    lost = [command_id for command_id in sender.acknowledged if command_id not in statuses]
    if is_synchronous:
        assert (while_held_back, lost) == ([], [])
    else:  # so the case above could have failed
        assert len(lost) >= 20
        assert set(while_held_back) <= set(lost)


async def found(dsn: str) -> tuple[dict[UUID, str], str]:
    """The status of every command, and what the auditor says."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        cursor = await conn.execute("SELECT command_id, status FROM commandbus.command")
        statuses = dict(await cursor.fetchall())
        violations = await audit(conn, liveness=True)
    return statuses, format_violations(violations) if violations else ""


async def begins_read_only(dsn: str) -> bool | None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        found = await (await conn.execute("SHOW default_transaction_read_only")).fetchone()
    return found == ("on",) or None


@pytest.mark.slow
@pytest.mark.asyncio
async def test_connections_to_a_demoted_primary_are_given_up() -> None:
    app = App()

    @app.handler("orders", "Count")
    async def count(command: Command, context: HandlerContext) -> dict[str, int]:
        return {"number": command.data["number"]}

    with pair() as (primary, standby, dsn):
        async with AsyncConnectionPool(dsn, min_size=4, max_size=4, timeout=5, reconnect_timeout=2) as pool:
            bus = CommandBus(pool)
            worker = Worker(pool, domain="orders", handler_registry=app.registry, poll_interval=0.1)
            running = asyncio.create_task(worker.run())
            await asyncio.wait_for(worker.ready.wait(), PATIENCE)
            await asyncio.to_thread(standby.promote)
            async with await psycopg.AsyncConnection.connect(primary.dsn(), autocommit=True) as conn:
                await conn.execute("ALTER SYSTEM SET default_transaction_read_only = on")
                await conn.execute("SELECT pg_reload_conf()")
            # The server that is reloaded tells every session at once, each before its next statement; until then a send
            # may still be stored there. A session that began afterwards shows that it did.
            await eventually(lambda: begins_read_only(primary.dsn()), "the old primary to read its configuration")
            command_id = uuid4()
            refused = 0

            async def stored() -> CommandStatus | None:
                nonlocal refused
                try:
                    await bus.send(domain="orders", command_type="Count", command_id=command_id, data={"number": 1})
                except psycopg.errors.ReadOnlySqlTransaction:
                    refused += 1
                    return None
                return CommandStatus.PENDING

            await eventually(stored, "a send to reach the new primary")

            async def completed() -> bool | None:
                return (await bus.get_command(command_id)).status is CommandStatus.COMPLETED or None

            await eventually(completed, "the worker to go on with the new primary")
            assert refused <= 4  # each connection at most once
            await worker.stop()
            await running
