"""Brings a used database back to what its template holds, when only rows and sequences have changed.

A reset costs a third of a new clone and the drop of the old one. It is refused as soon as anything else may
have changed: then the database is dropped. What tells is the catalog itself: every change of a definition,
comment, right or large object writes a catalog row, and with it another xmin or another count.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

MOST_ROWS_BYTES = 1 << 20
"""Bytes of rows in the template that are still worth keeping in memory."""

MOST_GROWTH_BYTES = 2 << 20
"""Bytes by which a database may have grown: emptying larger tables leaves more behind than a reset is worth."""

# Statistics are not definitions: only the analyzer writes them.
_CATALOGS: LiteralString = """
SELECT relname FROM pg_class
WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind = 'r' AND NOT relisshared
  AND relname NOT IN ('pg_statistic', 'pg_statistic_ext_data')
ORDER BY relname
"""
_CATALOG_STATE: LiteralString = "SELECT count(*), coalesce(sum(xmin::text::bigint), 0) FROM pg_catalog.{catalog}"
_RELATIONS: LiteralString = """
SELECT n.nspname, c.relname, c.relkind::text, c.relkind = 'r' AND pg_relation_size(c.oid) > 0 AS has_pages
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'S', 'm', 'f') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
ORDER BY n.nspname, c.relname
"""
# reltuples tells that autovacuum analyzed a table: the planner would see the last test's figures.
_DATABASE_STATE: LiteralString = """
SELECT d.datdba, d.datacl::text, d.datconnlimit,
       (SELECT count(*) FROM pg_db_role_setting WHERE setdatabase = d.oid),
       (SELECT count(*) FROM pg_prepared_xacts WHERE database = d.datname),
       (SELECT count(*) FROM pg_replication_slots WHERE database = d.datname),
       (SELECT sum(reltuples) FROM pg_class WHERE oid >= 16384)
FROM pg_database d WHERE d.datname = current_database()
"""
_SIZE: LiteralString = (
    "SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class WHERE oid >= 16384 AND relkind = 'r'"
)
_STUBBORN_TRIGGERS: LiteralString = "SELECT count(*) FROM pg_trigger WHERE tgenabled IN ('A', 'R')"
_SEQUENCE_STATE: LiteralString = "SELECT last_value, is_called FROM {relation}"
_SET_SEQUENCE: LiteralString = "SELECT setval(format('%%I.%%I', %s::text, %s::text)::regclass, %s, %s)"
_NO_TRIGGERS: LiteralString = "SET LOCAL session_replication_role = replica"
_EMPTY: LiteralString = "DELETE FROM {relation}"
_COPY_OUT: LiteralString = "COPY {relation} TO STDOUT"
_COPY_IN: LiteralString = "COPY {relation} FROM STDIN"
# The next test sees no counters of this one, nor of the reset.
_FLUSH_COUNTERS: LiteralString = "SELECT pg_stat_force_next_flush()"
_CLEAR_COUNTERS: LiteralString = "SELECT pg_stat_reset()"

Relation = tuple[str, str]
State = tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Snapshot:
    """What a fresh database of the template holds."""

    state: State
    state_query: "Composed"
    size: int
    rows: dict[Relation, bytes]
    sequences: dict[Relation, tuple[int, bool]]


def take_snapshot(connection: "Connection[tuple[Any, ...]]") -> Snapshot | None:
    """Read a fresh database; None when its kind cannot be reset (views with data, stubborn triggers, many rows)."""
    relations = connection.execute(_RELATIONS).fetchall()
    if any(kind in "mf" for _, _, kind, _ in relations) or _value(connection, _STUBBORN_TRIGGERS):
        return None
    rows: dict[Relation, bytes] = {}
    for schema, name, _, has_pages in relations:
        if has_pages:
            rows[schema, name] = _copy_out(connection, (schema, name))
            if sum(map(len, rows.values())) > MOST_ROWS_BYTES:
                return None
    sequences = {
        (schema, name): _sequence(connection, (schema, name)) for schema, name, kind, _ in relations if kind == "S"
    }
    query = _state_query(connection)
    return Snapshot(_state(connection, query), query, _value(connection, _SIZE), rows, sequences)


def reset(connection: "Connection[tuple[Any, ...]]", snapshot: Snapshot) -> bool:
    """Bring the database of this autocommit session back to the snapshot; False when it must be dropped instead."""
    with connection.transaction():
        if _state(connection, snapshot.state_query) != snapshot.state:
            return False
        if _value(connection, _SIZE) > snapshot.size + MOST_GROWTH_BYTES:
            return False
        connection.execute(_NO_TRIGGERS)
        for schema, name, kind, has_pages in connection.execute(_RELATIONS).fetchall():
            if has_pages:
                _restore_rows(connection, (schema, name), snapshot.rows.get((schema, name), b""))
            elif kind == "S":
                _restore_sequence(connection, (schema, name), snapshot.sequences[schema, name])
        connection.execute(_FLUSH_COUNTERS)
    connection.execute(_CLEAR_COUNTERS)
    return True


def _state_query(connection: "Connection[tuple[Any, ...]]") -> "Composed":
    from psycopg.sql import SQL, Identifier

    catalogs = [name for (name,) in connection.execute(_CATALOGS).fetchall()]
    return SQL(" UNION ALL ").join(SQL(_CATALOG_STATE).format(catalog=Identifier(name)) for name in catalogs)


def _state(connection: "Connection[tuple[Any, ...]]", catalogs: "Composed") -> State:
    return (*connection.execute(_DATABASE_STATE).fetchall(), *connection.execute(catalogs).fetchall())


def _restore_rows(connection: "Connection[tuple[Any, ...]]", relation: Relation, rows: bytes) -> None:
    connection.execute(_on(_EMPTY, relation))
    if rows:
        with connection.cursor() as cursor, cursor.copy(_on(_COPY_IN, relation)) as copy:
            copy.write(rows)


def _restore_sequence(connection: "Connection[tuple[Any, ...]]", relation: Relation, fresh: tuple[int, bool]) -> None:
    if _sequence(connection, relation) != fresh:
        connection.execute(_SET_SEQUENCE, (*relation, *fresh))


def _sequence(connection: "Connection[tuple[Any, ...]]", relation: Relation) -> tuple[int, bool]:
    last, called = connection.execute(_on(_SEQUENCE_STATE, relation)).fetchall()[0]
    return int(last), bool(called)


def _copy_out(connection: "Connection[tuple[Any, ...]]", relation: Relation) -> bytes:
    with connection.cursor() as cursor, cursor.copy(_on(_COPY_OUT, relation)) as copy:
        return b"".join(map(bytes, copy))


def _value(connection: "Connection[tuple[Any, ...]]", statement: LiteralString) -> int:
    return int(connection.execute(statement).fetchall()[0][0])


def _on(statement: LiteralString, relation: Relation) -> "Composed":
    from psycopg.sql import SQL, Identifier

    return SQL(statement).format(relation=Identifier(*relation))
