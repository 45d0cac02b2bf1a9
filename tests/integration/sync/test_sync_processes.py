"""The blocking bus in whole processes: forks, Ctrl-C and time limits, and the end of the interpreter."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psycopg
import pytest

from tests.integration.sync.sync_kit import TABLE, count, until

ROOT = Path(__file__).resolve().parents[3]
SECONDS = 60
_HEAD = """
    import contextlib, os, signal, sys, threading
    from uuid import uuid4
    import psycopg
    from commandbus import InvalidOperationError
    from commandbus.sync import Portal, SyncCommandBus, connect
    from tests.integration.sync.sync_kit import HookedProcess, OrderProcess, make_app

    dsn = sys.argv[1]

    def send(bus, **options):
        return bus.send(domain="orders", command_type="Ship", command_id=uuid4(), data={"order": 1}, **options)
"""


@pytest.fixture
def dsn(e2e_dsn: str) -> str:
    with psycopg.connect(e2e_dsn) as conn:
        conn.execute(TABLE)
    return e2e_dsn


def script(dsn: str, text: str) -> "subprocess.Popen[str]":
    """Start a Python that runs `text` with warnings as errors, but for the one that a fork beside threads gets."""
    source = textwrap.dedent(_HEAD) + textwrap.dedent(text)
    options = ["-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    return subprocess.Popen(
        [sys.executable, *options, "-c", source, dsn],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(dsn: str, text: str) -> str:
    """Run a script to its end; returns what it printed. It must succeed, and say nothing on stderr."""
    process = script(dsn, text)
    try:
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, ""), out + err
    return out


def test_each_forked_process_opens_its_own_and_the_parent_s_goes_on(dsn: str) -> None:
    out = run(
        dsn,
        """
        bus = connect(dsn)
        tsq, process = bus.troubleshooting, bus.process(OrderProcess)
        send(bus)
        children = []
        for _ in range(3):
            if (pid := os.fork()) == 0:
                send(bus)
                process.start({"order": 1})
                assert tsq.count_troubleshooting() == 0
                with psycopg.connect(dsn) as own:
                    send(bus, conn=own)
                sys.exit(0)   # with its atexit, as gunicorn's workers
            children.append(pid)
        print([os.waitpid(pid, 0)[1] for pid in children])
        send(bus)
        """,
    )
    assert out == "[0, 0, 0]\n"
    assert (count(dsn, "command"), count(dsn, "process")) == (1 + 3 * 3 + 1, 3)


def test_a_fork_beside_threads_that_use_the_bus_is_none_the_worse(dsn: str) -> None:
    out = run(
        dsn,
        """
        bus = SyncCommandBus(dsn)
        done = threading.Event()

        def work():
            while not done.is_set():
                send(bus)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        ends = []
        for _ in range(5):   # the first ones while it is being opened
            if (pid := os.fork()) == 0:
                signal.alarm(30)
                bus.replies("fork").receive()
                with bus.transaction() as conn:
                    bus.create_process_batch("orders", 1, conn=conn)
                os._exit(0)
            ends.append(os.waitpid(pid, 0)[1])
        done.set()
        for thread in threads:
            thread.join()
        print(ends)
        """,
    )
    assert out == "[0, 0, 0, 0, 0]\n"


def test_a_portal_is_of_no_use_in_a_fork_and_says_so(dsn: str) -> None:
    out = run(
        dsn,
        """
        portal = Portal()
        sys.stdout.flush()
        if (pid := os.fork()) == 0:
            try:
                portal.call(print, "never")
            except InvalidOperationError as error:
                print(error)
            portal.close()
            sys.exit(0)
        os.waitpid(pid, 0)
        portal.call(print, "still there")
        portal.close()
        """,
    )
    told, still = out.splitlines()
    assert told.startswith("this portal was opened before the process forked")
    assert still == "still there"


@pytest.mark.parametrize(
    "at_the_end",
    ["", "sys.exit(0)", "bus.close()", "threading.Thread(target=sleep, daemon=True).start(); wait_until_asleep()"],
)
def test_the_interpreter_ends_at_once_and_leaves_no_connection(dsn: str, at_the_end: str) -> None:
    run(
        dsn,
        """
        def sleep():
            with contextlib.suppress(InvalidOperationError), bus.transaction() as conn:
                conn.execute("SELECT pg_sleep(600)")

        def wait_until_asleep():
            with psycopg.connect(dsn, autocommit=True) as conn:
                while conn.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                                   " AND datname = current_database()").fetchone() == (0,):
                    pass

        bus = connect(dsn)
        send(bus)
        AT_THE_END
        """.replace("AT_THE_END", at_the_end),
    )
    with psycopg.connect(dsn, autocommit=True) as conn:
        until(lambda: others(conn) == 0, "the server to see nobody")


def others(conn: psycopg.Connection) -> int:
    row = conn.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ).fetchone()
    return row[0] if row else 0


_ASLEEP = (
    "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%%pg_sleep%%' AND pid <> pg_backend_pid()"
)

_WAYS = {
    "its own connection": """
        with bus.transaction() as conn:
            send(bus, conn=conn)
            conn.execute("SELECT pg_sleep(600)")
    """,
    "the caller's connection": """
        class Sleeping(HookedProcess):
            async def before_send_commands(self, items, conn):
                await conn.execute("SELECT pg_sleep(600)")

        with own.transaction():
            send(bus, conn=own)
            bus.process(Sleeping).start({"order": 1}, conn=own)
    """,
    "a coroutine of the caller's": """
        import asyncio

        class Waiting(HookedProcess):
            async def before_send_commands(self, items, conn):
                async with await psycopg.AsyncConnection.connect(dsn) as another:
                    await another.execute("SELECT pg_sleep(600)")

        with own.transaction():
            bus.process(Waiting).start({"order": 1}, conn=own)
    """,
    "a connection that none gives back": """
        with bus.transaction() as conn:
            thread = threading.Thread(target=conn.execute, args=("SELECT pg_sleep(2)",))
            thread.start()
            send(bus)   # max_size is 1
    """,
}


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGUSR1], ids=["ctrl-c", "time limit"])
def test_a_signal_ends_a_blocking_call_and_takes_back_what_it_did(dsn: str, way: str, how: signal.Signals) -> None:
    """The time limit is an ordinary exception of a signal handler, such as task queues and web servers raise.

    psycopg leaves a connection that such a one interrupts amid a statement: it is closed.
    """
    text = """
        class TimeLimit(Exception): ...

        def handle(*_): raise TimeLimit

        signal.signal(signal.SIGUSR1, handle)
        bus = connect(dsn, app=make_app(), max_size=1)
        own = psycopg.connect(dsn)
        try:
            ...
        except (KeyboardInterrupt, TimeLimit) as error:
            print(type(error).__name__)
        with psycopg.connect(dsn) as fresh:
            print(fresh.execute("SELECT count(*) FROM commandbus.command").fetchone()[0])
            print(own.closed)
        send(bus)
        own = psycopg.connect(dsn) if own.closed else own
        send(bus, conn=own)
        own.commit()
        own.close()
        bus.close()
        """
    process = script(dsn, text.replace("            ...\n", textwrap.indent(textwrap.dedent(_WAYS[way]), " " * 12)))
    try:
        with psycopg.connect(dsn, autocommit=True) as conn:
            until(lambda: conn.execute(_ASLEEP).fetchall() or process.poll() is not None, "the call to sleep")
            process.send_signal(how)
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, ""), out + err
    is_closed = how is signal.SIGUSR1 and way == "the caller's connection"
    assert out.split() == ["KeyboardInterrupt" if how is signal.SIGINT else "TimeLimit", "0", str(is_closed)]
    assert count(dsn, "command") == 2
