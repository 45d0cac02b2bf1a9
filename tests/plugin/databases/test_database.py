"""Test databases: each its own, cloned once migrated, and nothing but ours is ever dropped."""

import os
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pytest_commandbus.database import Databases, template_hash
from pytest_commandbus.postgres.admin import Admin
from pytest_commandbus.postgres.errors import PostgresError
from pytest_commandbus.postgres.server import EmbeddedPostgres

from .database_kit import DEADLINE_SECONDS, add_item, databases, items, prepare, wait_until


def test_each_acquired_database_is_fresh_and_its_own(server: EmbeddedPostgres, admin: Admin) -> None:
    with Databases(server.dsn(), "run1", prepare=prepare, strategy="file_copy") as stock:
        first, second = stock.acquire(), stock.acquire()
        assert first.name != second.name
        add_item(first, "one")
        assert items(second) == []
        stock.release(first)
        for _ in range(6):
            following = stock.acquire()
            assert items(following) == []
            add_item(following, "next")
            assert items(following) == [(1, "next")]
            stock.release(following)
        with psycopg.connect(second.dsn) as connection:
            assert connection.execute("SELECT * FROM setting").fetchall() == [("clock", "0")]


def test_whatever_a_test_does_to_its_database_the_next_does_not_see(server: EmbeddedPostgres, admin: Admin) -> None:
    damages = [
        "CREATE TABLE extra ()",
        "ALTER TABLE item ADD COLUMN extra text",
        "DROP TABLE setting",
        "UPDATE setting SET value = '5'",
        "DELETE FROM setting",
        "SELECT setval('item_id_seq', 500)",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE SCHEMA s",
        "ALTER DATABASE CURRENT SET work_mem = '9MB'",
        "CREATE RULE r AS ON INSERT TO item DO INSTEAD NOTHING",
        "REVOKE ALL ON item FROM postgres",
        "COMMENT ON TABLE item IS 'mine'",
        "SELECT lo_create(4711)",
        "ALTER TABLE item DISABLE TRIGGER ALL",
        "CREATE STATISTICS st ON id, name FROM item",
        "TRUNCATE setting",
        "BEGIN; CREATE TEMP TABLE t (a int); COMMIT",
        "CREATE EXTENSION pageinspect",
        "INSERT INTO item (name) SELECT 'x' FROM generate_series(1, 20000)",
    ]
    with Databases(server.dsn(), "run1", prepare=prepare, strategy="file_copy") as stock:
        for damage in damages:
            database = stock.acquire()
            with psycopg.connect(database.dsn, autocommit=True) as connection:
                assert picture(connection) == picture_of_the_template(server), f"after the test before {damage}"
                connection.execute(
                    damage.replace("DATABASE CURRENT", f"DATABASE {database.name}").encode(), prepare=False
                )
            stock.release(database)
        for _ in range(4):
            database = stock.acquire()
            with psycopg.connect(database.dsn, autocommit=True) as connection:
                assert picture(connection) == picture_of_the_template(server)
            stock.release(database)


def test_a_used_database_comes_back_reset_under_another_name(server: EmbeddedPostgres, admin: Admin) -> None:
    with Databases(server.dsn(), "run1", prepare=prepare, strategy="file_copy") as stock:
        seen: dict[object, str] = {}
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            database = stock.acquire()
            with psycopg.connect(database.dsn) as connection:
                oid = connection.execute("SELECT oid FROM pg_database WHERE datname = current_database()").fetchall()[0]
                assert picture(connection) == picture_of_the_template(server)
                connection.execute("INSERT INTO item (name) VALUES ('mine')")
                connection.execute("UPDATE setting SET value = '5'")
            if oid in seen:
                break
            seen[oid] = database.name
            stock.release(database)
            assert time.monotonic() < deadline, "no database was ever reset"
        assert database.name != seen[oid]
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            psycopg.connect(server.dsn(seen[oid]))


def test_a_test_that_clears_the_counters_is_not_trusted(server: EmbeddedPostgres, admin: Admin) -> None:
    with Databases(server.dsn(), "run1", prepare=prepare, strategy="file_copy") as stock:
        for _ in range(8):
            database = stock.acquire()
            with psycopg.connect(database.dsn, autocommit=True) as connection:
                assert connection.execute("SELECT count(*) FROM pg_proc WHERE proname = 'hidden'").fetchall() == [(0,)]
                connection.execute("CREATE FUNCTION hidden() RETURNS int LANGUAGE sql AS 'SELECT 1'")
                connection.execute("SELECT pg_stat_force_next_flush()")
                connection.execute("SELECT pg_stat_reset()")
            stock.release(database)


PICTURE = """
SELECT jsonb_build_object(
  'relations', (SELECT jsonb_agg(jsonb_build_array(n.nspname, c.relname, c.relkind, c.relnatts, c.relacl::text,
                                                   obj_description(c.oid)) ORDER BY n.nspname, c.relname)
                FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema')),
  'schemas', (SELECT jsonb_agg(nspname ORDER BY nspname) FROM pg_namespace),
  'functions', (SELECT count(*) FROM pg_proc), 'rules', (SELECT count(*) FROM pg_rewrite),
  'large objects', (SELECT count(*) FROM pg_largeobject_metadata),
  'statistics', (SELECT count(*) FROM pg_statistic_ext),
  'extensions', (SELECT count(*) FROM pg_extension), 'work_mem', current_setting('work_mem'),
  'item', (SELECT count(*) FROM item), 'setting', (SELECT jsonb_agg(to_jsonb(s)) FROM setting s),
  'sequence', (SELECT jsonb_agg(jsonb_build_array(sequencename, last_value)) FROM pg_sequences))
"""


def picture(connection: psycopg.Connection[tuple[object, ...]]) -> object:
    row = connection.execute(PICTURE.encode()).fetchone()
    assert row is not None
    return row[0]


_PICTURES: dict[str, object] = {}


def picture_of_the_template(server: EmbeddedPostgres) -> object:
    """What a database looks like that was prepared by itself, without any cloning."""
    if server.dsn() not in _PICTURES:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("CREATE DATABASE reference")
        prepare(server.dsn("reference"))
        with psycopg.connect(server.dsn("reference"), autocommit=True) as connection:
            _PICTURES[server.dsn()] = picture(connection)
    return _PICTURES[server.dsn()]


def test_a_session_left_open_by_a_test_does_not_see_the_next(server: EmbeddedPostgres, admin: Admin) -> None:
    with Databases(server.dsn(), "run1", prepare=prepare) as stock:
        database = stock.acquire()
        left = psycopg.connect(database.dsn, autocommit=True)
        stock.release(database)
        wait_until(lambda: _is_ended(left))
        left.close()


def _is_ended(connection: psycopg.Connection[tuple[object, ...]]) -> bool:
    try:
        connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return True
    return False


def test_the_template_is_named_by_its_migrations(tmp_path: Path) -> None:
    (tmp_path / "V001__a.sql").write_text("SELECT 1")
    first = template_hash([tmp_path])
    assert template_hash([tmp_path]) == first
    assert template_hash([tmp_path / "V001__a.sql"]) == first
    assert template_hash([tmp_path], version="2") != first
    assert template_hash([tmp_path], role="tester") != first
    (tmp_path / "V001__a.sql").write_text("SELECT 2")
    second = template_hash([tmp_path])
    (tmp_path / "V001__a.sql").rename(tmp_path / "V002__a.sql")
    assert len({first, second, template_hash([tmp_path])}) == 3


def test_a_role_that_is_no_superuser_is_enough(server: EmbeddedPostgres, admin: Admin) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("CREATE ROLE tester LOGIN CREATEDB")
    dsn = psycopg.conninfo.make_conninfo(server.dsn(), user="tester", password="canary-77")
    with Databases(dsn, "run5", prepare=prepare) as stock:
        for _ in range(4):
            database = stock.acquire()
            assert items(database) == []
            add_item(database, "x")
            assert "canary-77" not in repr(database)
            stock.release(database)
    assert databases(admin, "cb_run5") == []


def test_close_after_the_server_died_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with EmbeddedPostgres() as private:
        stock = Databases(private.dsn(), "run1", prepare=prepare)
        stock.acquire()
        private.crash()
        stock.close()
    assert "databases of run run1 could not be dropped" in caplog.text


def test_a_run_without_a_usable_name_is_refused(server: EmbeddedPostgres) -> None:
    with pytest.raises(PostgresError, match="run id"):
        Databases(server.dsn(), "-!-", prepare=prepare)


def test_acquiring_and_releasing_in_many_threads_gives_each_its_own(server: EmbeddedPostgres, admin: Admin) -> None:
    taken: list[str] = []
    with Databases(server.dsn(), "run6", prepare=prepare) as stock:
        stock.acquire()
        threads = [threading.Thread(target=lambda: taken.append(stock.acquire().name)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
    assert len(set(taken)) == 4


def test_the_pace_is_printed(
    server: EmbeddedPostgres, admin: Admin, record_property: Callable[[str, object], None]
) -> None:
    times: list[float] = []
    with Databases(server.dsn(), "pace", prepare=prepare, strategy="file_copy") as stock:
        for _ in range(40):
            begun = time.perf_counter()
            database = stock.acquire()
            acquired = time.perf_counter()
            add_item(database, "x")
            worked = time.perf_counter()
            stock.release(database)
            times.append(acquired - begun + time.perf_counter() - worked)
    record_property("cb_database_median_ms", round(statistics.median(times) * 1000, 2))
    print(f"acquire and release: median {statistics.median(times) * 1000:.1f} ms, {os.cpu_count()} cores")
    assert len(times) == 40
