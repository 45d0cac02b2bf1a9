"""Whoever can create things in a schema that comes first on the search path cannot put them in the way of the bus."""

import psycopg
import pytest
from psycopg import sql

from commandbus.migrate import migrate
from tests.integration.bus_history import DOMAIN, Bus, write_history

UNPINNED = ["channel", "now", "parked_matching"]  # so that PostgreSQL can inline them

SHADOWED = """
    SELECT p.proname, pg_get_function_identity_arguments(p.oid), pg_get_function_result(p.oid)
      FROM pg_proc p
     WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND NOT p.proretset AND p.provariadic = 0
       AND p.prorettype NOT IN ('internal'::regtype, 'cstring'::regtype, 'trigger'::regtype)
       AND pg_get_function_identity_arguments(p.oid) !~ 'any|internal|cstring|OUT '
       AND EXISTS (SELECT FROM pg_proc own WHERE own.pronamespace = 'commandbus'::regnamespace
                      AND own.prosrc ~ ('[^.]\\m' || p.proname || '\\('))"""


@pytest.fixture
def attacked_dsn(empty_dsn: str) -> str:
    """A migrated database with a schema that has each function and table which the bus uses, as one that fails."""
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("CREATE SCHEMA evil")
        shadowed = conn.execute(SHADOWED.encode()).fetchall()
        for name, arguments, result in shadowed:
            conn.execute(
                sql.SQL("CREATE FUNCTION {}({}) RETURNS {} LANGUAGE plpgsql AS 'BEGIN RAISE ''attacked''; END'").format(
                    sql.Identifier("evil", name), sql.SQL(arguments), sql.SQL(result)
                )
            )
        tables = conn.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'commandbus'").fetchall()
        for (table,) in tables:
            conn.execute(sql.SQL("CREATE TABLE {} (nothing integer)").format(sql.Identifier("evil", table)))
        conn.execute("CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz'")
        assert {"pg_notify", "set_config"} & {name for name, *_ in shadowed}
        assert len(tables) >= 10
    return psycopg.conninfo.make_conninfo(empty_dsn, options="-c search_path=evil,pg_catalog,public")


def test_a_whole_history_is_written_as_if_nothing_were_in_the_way(attacked_dsn: str, empty_dsn: str) -> None:
    with psycopg.connect(attacked_dsn, autocommit=True) as conn:
        with pytest.raises(psycopg.errors.RaiseException, match="attacked"):
            conn.execute("SELECT pg_notify('channel', 'text')")
        write_history(Bus(conn))
    with psycopg.connect(empty_dsn) as conn:
        count = conn.execute("SELECT count(*) FROM commandbus.command WHERE domain = %s", [DOMAIN]).fetchone()
    assert count is not None
    assert count[0] > 10


def test_every_function_pins_its_search_path(migrated_dsn: str) -> None:
    with psycopg.connect(migrated_dsn) as conn:
        rows = conn.execute(
            """SELECT p.proname FROM pg_proc p
                WHERE p.pronamespace = 'commandbus'::regnamespace
                  AND NOT coalesce(p.proconfig, '{}') @> ARRAY['search_path=pg_catalog, pg_temp'] ORDER BY 1"""
        ).fetchall()
    assert [name for (name,) in rows] == UNPINNED
