"""Migrations: each applied once, in order, and a history that does not fit is a clear error."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest

import commandbus
from commandbus.errors import CommandBusError, MigrationError, SchemaError
from commandbus.migrate import check_schema, migrate, own_migrations

OWN = [migration.name for migration in own_migrations()]


def rows(dsn: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute(query).fetchall()  # type: ignore[call-overload]


def change(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn) as conn:
        assert conn.execute(statement).rowcount > 0  # type: ignore[call-overload]


async def check(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        await check_schema(conn)


def until_waiting(watcher: psycopg.Connection[Any], locktype: str) -> None:
    """Poll until somebody waits for a lock of that type."""
    deadline = monotonic() + 60
    while (
        watcher.execute(
            "SELECT FROM pg_locks WHERE locktype = %s AND NOT granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            (locktype,),
        ).fetchone()
        is None
    ):
        assert monotonic() < deadline, "nobody asked for the lock"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder with two migrations."""
    made = tmp_path / "billing"
    made.mkdir()
    (made / "V001__invoice.sql").write_text("CREATE TABLE public.invoice (id int);\n")
    (made / "V002__payment.sql").write_text("CREATE TABLE public.payment (id int);\nINSERT INTO payment VALUES (1);\n")
    return made


async def fits(dsn: str) -> bool:
    try:
        await check(dsn)
    except SchemaError:
        return False
    return True


@pytest.mark.asyncio
async def test_a_new_database_gets_all_migrations_in_order_and_then_none(empty_dsn: str) -> None:
    assert migrate(empty_dsn) == OWN
    assert migrate(empty_dsn) == []
    history = rows(empty_dsn, "SELECT name FROM commandbus.migration WHERE scope = 'commandbus' ORDER BY version")
    assert [name for (name,) in history] == OWN
    assert await fits(empty_dsn)


def test_the_schema_of_the_tests_is_not_created(empty_dsn: str) -> None:
    migrate(empty_dsn)
    assert rows(empty_dsn, "SELECT nspname FROM pg_namespace WHERE nspname = 'e2e'") == []


def test_ten_processes_at_once_apply_each_migration_once(empty_dsn: str, folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from commandbus.migrate import migrate; sys.stdin.readline();"
        "print(*migrate(sys.argv[1], folders=[Path(sys.argv[2])]))"
    )
    migrators = [
        subprocess.Popen(
            [sys.executable, "-c", program, empty_dsn, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(10)
    ]
    for migrator in migrators:
        assert migrator.stdin is not None
        migrator.stdin.write("go\n")
        migrator.stdin.flush()
    answers = [migrator.communicate(timeout=120) for migrator in migrators]
    assert [migrator.returncode for migrator in migrators] == [0] * 10, answers
    applied = sorted(out.split() for out, _ in answers)
    assert applied == [[]] * 9 + [[*OWN, "V001__invoice.sql", "V002__payment.sql"]]
    assert rows(empty_dsn, "SELECT count(*) FROM public.payment") == [(1,)]


def test_a_second_migrator_waits_for_the_first(empty_dsn: str) -> None:
    program = "import sys; from commandbus.migrate import migrate; print(migrate(sys.argv[1]))"
    with psycopg.connect(empty_dsn, autocommit=True) as watcher, psycopg.connect(empty_dsn) as first:
        first.execute("SELECT pg_advisory_xact_lock(7236182, 0)")
        second = subprocess.Popen([sys.executable, "-c", program, empty_dsn], stdout=subprocess.PIPE, text=True)
        until_waiting(watcher, "advisory")
        assert watcher.execute("SELECT to_regclass('commandbus.migration')").fetchone() == (None,)
        first.rollback()
        assert second.communicate(timeout=60)[0].strip() == str(OWN)


@pytest.mark.parametrize("in_package", [True, False], ids=["wheel", "editable"])
def test_our_migrations_are_found_in_the_package_or_beside_its_sources(tmp_path: Path, in_package: bool) -> None:
    package = tmp_path / "src" / "commandbus"
    ours = Path(commandbus.__file__).parent
    shutil.copytree(ours, package, ignore=shutil.ignore_patterns("__pycache__", "migrations"))
    folder = package / "migrations" if in_package else tmp_path / "migrations"
    program = "from commandbus.migrate import own_migrations; print(*[m.name for m in own_migrations()])"
    run = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(package.parent)!r}); {program}"]
    without = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)
    assert "lacks its migrations" in without.stderr
    folder.mkdir()
    (folder / "V001__one.sql").write_text("SELECT 1;")
    assert subprocess.check_output(run, text=True, timeout=60).split() == ["V001__one.sql"]
    (folder / "V003__three.sql").write_text("SELECT 1;")
    with_gap = subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)
    assert "a number is left out" in with_gap.stderr


@pytest.mark.asyncio
async def test_a_worker_on_an_unmigrated_database_is_told_what_to_run(empty_dsn: str) -> None:
    with pytest.raises(SchemaError, match="commandbus migrate"):
        await check(empty_dsn)


@pytest.mark.asyncio
async def test_a_worker_on_an_older_database_is_told_what_it_lacks(empty_dsn: str) -> None:
    migrate(empty_dsn)
    change(
        empty_dsn, "DELETE FROM commandbus.migration WHERE version = (SELECT max(version) FROM commandbus.migration)"
    )
    with pytest.raises(SchemaError, match=rf"lacks {OWN[-1]}; .*commandbus migrate"):
        await check(empty_dsn)


@pytest.mark.parametrize(
    ("tampering", "kind", "message"),
    [
        ("UPDATE commandbus.migration SET checksum = 'x' WHERE version = 2", MigrationError, f"{OWN[1]} was edited"),
        (
            "UPDATE commandbus.migration SET name = 'V002__x.sql' WHERE version = 2",
            MigrationError,
            "applied as V002__x",
        ),
        ("DELETE FROM commandbus.migration WHERE version = 2", MigrationError, f"{OWN[1]} was never applied"),
        (
            "INSERT INTO commandbus.migration VALUES ('commandbus', 900, 'V900__later.sql', 'x', now())",
            SchemaError,
            "V900__later.sql, which is newer .* upgrade",
        ),
    ],
)
@pytest.mark.asyncio
async def test_a_history_that_does_not_fit_is_refused_by_migrate_and_by_workers(
    empty_dsn: str, tampering: str, kind: type[CommandBusError], message: str
) -> None:
    migrate(empty_dsn)
    change(empty_dsn, tampering)
    with pytest.raises(kind, match=message):
        migrate(empty_dsn)
    with pytest.raises(kind, match=message):
        await check(empty_dsn)


def test_a_folder_has_a_scope_and_rules_of_its_own(empty_dsn: str, folder: Path) -> None:
    assert migrate(empty_dsn, folders=[folder]) == [*OWN, "V001__invoice.sql", "V002__payment.sql"]
    (folder / "V010__refund.sql").write_text("CREATE TABLE public.refund (id int);")
    assert migrate(empty_dsn, folders=[folder]) == ["V010__refund.sql"]
    assert migrate(empty_dsn) == []
    (folder / "V001__invoice.sql").unlink()
    with pytest.raises(MigrationError, match=r"V001__invoice\.sql was applied .* missing"):
        migrate(empty_dsn, folders=[folder])


def test_line_ends_are_no_edit_but_text_is(empty_dsn: str, folder: Path) -> None:
    migrate(empty_dsn, folders=[folder])
    file = folder / "V002__payment.sql"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert migrate(empty_dsn, folders=[folder]) == []
    file.write_text(file.read_text() + "-- harmless\n")
    with pytest.raises(MigrationError, match="was edited"):
        migrate(empty_dsn, folders=[folder])


def test_a_failing_migration_names_its_line_and_leaves_nothing(empty_dsn: str, folder: Path) -> None:
    (folder / "V003__bad.sql").write_text("CREATE TABLE public.half (id int);\n\nSELECT nonsense;\n")
    with pytest.raises(MigrationError, match=r"V003__bad\.sql, line 3, failed .*nonsense"):
        migrate(empty_dsn, folders=[folder])
    assert rows(empty_dsn, "SELECT to_regclass('public.half'), to_regclass('public.payment') IS NOT NULL") == [
        (None, True)
    ]
    (folder / "V003__bad.sql").write_text("CREATE TABLE public.half (id int);\n")
    assert migrate(empty_dsn, folders=[folder]) == ["V003__bad.sql"]


def test_a_migration_may_not_commit(empty_dsn: str, folder: Path) -> None:
    (folder / "V003__commits.sql").write_text("SELECT 1;\nCOMMIT;\n")
    with pytest.raises(MigrationError, match="COMMIT"):
        migrate(empty_dsn, folders=[folder])
    assert rows(empty_dsn, "SELECT name FROM commandbus.migration WHERE name LIKE '%commits%'") == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("V1__again.sql", r"V001__invoice\.sql and V1__again\.sql have the same number"),
        ("invoice.sql", r"named V<number>__<name>\.sql"),
        ("V000__zero.sql", r"named V<number>__<name>\.sql"),
    ],
)
def test_a_misnamed_or_doubled_file_is_refused_before_anything_is_applied(
    empty_dsn: str, folder: Path, name: str, message: str
) -> None:
    (folder / name).write_text("SELECT 1;")
    with pytest.raises(MigrationError, match=message):
        migrate(empty_dsn, folders=[folder])
    assert rows(empty_dsn, "SELECT to_regclass('commandbus.migration')") == [(None,)]


def test_two_folders_of_one_name_are_refused(empty_dsn: str, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "billing"
    other.mkdir(parents=True)
    with pytest.raises(MigrationError, match="'billing'"):
        migrate(empty_dsn, folders=[folder, other])


def test_a_role_that_may_create_nothing_can_look(empty_dsn: str) -> None:
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn) as conn:
        conn.execute("CREATE ROLE looker LOGIN")
        conn.execute("GRANT USAGE ON SCHEMA commandbus TO looker")
        conn.execute("GRANT SELECT ON commandbus.migration TO looker")
    try:
        assert migrate(empty_dsn + " options='-c role=looker'") == []
    finally:
        with psycopg.connect(empty_dsn) as conn:
            conn.execute("DROP OWNED BY looker")
            conn.execute("DROP ROLE looker")


def test_timeouts_of_the_role_do_not_stop_a_migration(empty_dsn: str, folder: Path) -> None:
    (folder / "V003__slow.sql").write_text("SELECT pg_sleep(0.4);")
    strict = " options='-c statement_timeout=200 -c idle_in_transaction_session_timeout=200'"
    assert migrate(empty_dsn + strict, folders=[folder])[-1] == "V003__slow.sql"


def test_a_migration_that_deadlocks_with_workers_is_tried_again(empty_dsn: str, folder: Path) -> None:
    migrate(empty_dsn, folders=[folder])
    (folder / "V003__deadlocks.sql").write_text(
        "SET LOCAL deadlock_timeout = '10ms';\n"
        "LOCK TABLE public.invoice; SELECT pg_advisory_xact_lock(7); LOCK TABLE public.payment;\n"
        "INSERT INTO public.invoice VALUES (1);\n"
    )
    with (
        psycopg.connect(empty_dsn, autocommit=True) as watcher,
        psycopg.connect(empty_dsn) as worker,
        ThreadPoolExecutor(2) as threads,
    ):
        watcher.execute("SELECT pg_advisory_lock(7)")  # holds the migration once it has its first table
        worker.execute("SET LOCAL deadlock_timeout = '1h'")  # so that it is the migration that gives way
        worker.execute("LOCK TABLE public.payment")
        migrating = threads.submit(migrate, empty_dsn, folders=[folder])
        until_waiting(watcher, "advisory")
        locking = threads.submit(worker.execute, "LOCK TABLE public.invoice")
        until_waiting(watcher, "relation")
        watcher.execute("SELECT pg_advisory_unlock(7)")
        locking.result(timeout=60)
        worker.rollback()
        assert migrating.result(timeout=60) == ["V003__deadlocks.sql"]
    assert rows(empty_dsn, "SELECT count(*) FROM public.invoice") == [(1,)]
