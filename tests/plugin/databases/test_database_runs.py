"""Which databases live how long: those of a run, of its processes, of dead runs, and the template."""

import multiprocessing
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from pytest_commandbus.database import Databases, template_hash
from pytest_commandbus.postgres.admin import Admin
from pytest_commandbus.postgres.errors import PostgresError
from pytest_commandbus.postgres.server import EmbeddedPostgres

from .database_kit import DEADLINE_SECONDS, add_item, databases, items, prepare, wait_until


def test_close_drops_all_but_the_template_and_the_kept(server: EmbeddedPostgres, admin: Admin) -> None:
    stock = Databases(server.dsn(), "run2", prepare=prepare)
    kept, _, given_back = stock.acquire(), stock.acquire(), stock.acquire()
    add_item(kept, "evidence")
    stock.release(kept, keep=True)
    stock.release(given_back)
    stock.shared("load")
    stock.close()
    stock.close()
    assert databases(admin, "cb_run2") == [kept.name]
    assert items(kept) == [(1, "evidence")]
    assert len(databases(admin, "cb_template_")) == 1
    with pytest.raises(PostgresError, match="closed"):
        stock.acquire()


def test_the_shared_database_lives_until_the_last_process_of_the_run(server: EmbeddedPostgres, admin: Admin) -> None:
    one = Databases(server.dsn(), "run3", prepare=prepare)
    two = Databases(server.dsn(), "run3", prepare=prepare)
    shared = one.shared("test_load")
    add_item(shared, "one")
    assert two.shared("test_load") == shared
    assert two.shared("another") != shared
    one.close()
    assert items(shared) == [(1, "one")]
    two.close()
    assert databases(admin, "cb_run3") == []


def test_the_last_process_of_a_run_waits_for_the_others_and_drops_what_they_left(
    server: EmbeddedPostgres, admin: Admin
) -> None:
    last = Databases(server.dsn(), "dead", prepare=prepare)
    closing = threading.Thread(target=last.close, kwargs={"last": True})
    with _run_to_kill(server.dsn()) as left:
        closing.start()
        closing.join(0.2)
        assert closing.is_alive()
        assert left in databases(admin, "cb_dead")
    closing.join(DEADLINE_SECONDS)
    assert databases(admin, "cb_dead") == []


def test_only_databases_of_dead_runs_with_our_mark_are_swept(server: EmbeddedPostgres, admin: Admin) -> None:
    admin.create("cb_run1_sales")  # a name like ours, but somebody else's
    admin.create("cb_killed_0a1b2c_7")  # made by a process that was killed before it could mark it
    dead = _dead_run(server.dsn())
    kept = Databases(server.dsn(), "runk", prepare=prepare)
    evidence = kept.acquire()
    kept.release(evidence, keep=True)
    kept.close()
    with (
        Databases(server.dsn(), "alive", prepare=prepare) as alive,
        Databases(server.dsn(), "new", prepare=prepare) as new,
    ):
        living = alive.acquire()
        new.acquire()
        wait_until(lambda: not {dead, "cb_killed_0a1b2c_7"} & set(databases(admin, "cb_")))
        assert {"cb_run1_sales", living.name, evidence.name} <= set(databases(admin, "cb_"))


def _dead_run(dsn: str) -> str:
    """Return the name of a database whose run was killed."""
    with _run_to_kill(dsn) as name:
        return name


@contextmanager
def _run_to_kill(dsn: str) -> Iterator[str]:
    """The name of a database whose run, "dead", lives within the block and is killed at its end."""
    script = (
        "import sys; from pytest_commandbus.database import Databases\n"
        "print(Databases(sys.argv[1], 'dead', prepare=lambda dsn: None).acquire().name, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, dsn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGKILL)


def _prepare_slowly(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE prepared AS SELECT 1 AS one FROM pg_sleep(0.3)")


def _acquire_in_a_process(dsn: str, start: object, names: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    with Databases(dsn, "many", prepare=_prepare_slowly) as stock:
        database = stock.acquire()
        with psycopg.connect(database.dsn) as connection:
            connection.execute("SELECT * FROM prepared")
        names.put((database.name, stock.shared("one").name))  # type: ignore[attr-defined]


def test_processes_that_start_at_once_make_one_template(server: EmbeddedPostgres, admin: Admin) -> None:
    context = multiprocessing.get_context("spawn")
    start, names = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_acquire_in_a_process, args=(server.dsn(), start, names)) for _ in range(3)]
    for process in processes:
        process.start()
    results = [names.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len({name for name, _ in results}) == 3
    assert len({shared for _, shared in results}) == 1
    assert databases(admin, "cb_many") == []
    assert len(databases(admin, "cb_template_")) == 1


def test_a_template_that_was_left_half_made_is_made_anew(server: EmbeddedPostgres, admin: Admin) -> None:
    def fail(dsn: str) -> None:
        prepare(dsn)
        raise RuntimeError("migration 3 is broken")

    with Databases(server.dsn(), "run4", prepare=fail) as stock, pytest.raises(RuntimeError, match="migration 3"):
        stock.acquire()
    assert databases(admin, "cb_template_") == []
    admin.create(f"cb_template_{template_hash([], role='postgres')}")  # as a process leaves it that was killed there
    with Databases(server.dsn(), "run4", prepare=prepare) as stock:
        assert items(stock.acquire()) == []


def test_roles_that_share_a_server_do_not_meet(
    server: EmbeddedPostgres, admin: Admin, caplog: pytest.LogCaptureFixture
) -> None:
    dsns = {role: psycopg.conninfo.make_conninfo(server.dsn(), user=role) for role in ("one", "two")}
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        for role in dsns:
            connection.execute(psycopg.sql.SQL("CREATE ROLE {} LOGIN CREATEDB").format(psycopg.sql.Identifier(role)))
    dead = {role: _dead_run(dsn) for role, dsn in dsns.items()}
    for role, dsn in dsns.items():
        with Databases(dsn, f"run{role}", version="2", prepare=prepare) as stock:
            add_item(stock.acquire(), role)
            wait_until(lambda role=role: dead[role] not in databases(admin, "cb_dead"))  # type: ignore[misc]
        if role == "one":
            assert dead["two"] in databases(admin, "cb_dead")
    assert len(databases(admin, "cb_template_")) == 4
    assert caplog.text == ""
