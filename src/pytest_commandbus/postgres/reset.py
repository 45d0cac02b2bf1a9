"""Brings a used database back to what its template holds, when only rows and sequences have changed.

A reset costs a third of a new clone and the drop of the old one. It is refused as soon as anything else may
have changed: then the database is dropped. The server's own counters tell: every change of a definition,
comment, right or large object writes a row of the catalog, and a session counts what it wrote, at the latest
when it ends. Counters that may be incomplete (cleared by a test, or lost in a crash) refuse the reset too.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

MOST_ROWS_BYTES = 1 << 20
"""Bytes of rows in the template that are still worth keeping in memory."""

MOST_TABLE_BYTES = 1 << 20
"""Bytes of a changed table with its indexes: emptying a larger one leaves more behind than a reset is worth."""

# Materialized views, foreign tables and triggers that fire always: a reset would not know what they do.
_IS_UNFIT: LiteralString = """
SELECT EXISTS (SELECT FROM pg_class WHERE relkind IN ('m', 'f'))
    OR EXISTS (SELECT FROM pg_trigger WHERE tgenabled IN ('A', 'R'))
"""
_TABLES: LiteralString = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND pg_relation_size(c.oid) > 0
"""
# Statistics are no definitions: only the analyzer writes them.
_CHANGED: LiteralString = """
SELECT (SELECT nspname FROM pg_namespace WHERE oid = relnamespace), relname,
       relnamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) AS is_catalog,
       pg_total_relation_size(oid) AS size
FROM pg_class
WHERE relkind = 'r' AND NOT relisshared AND relname NOT IN ('pg_statistic', 'pg_statistic_ext_data')
  AND pg_stat_get_tuples_inserted(oid) + pg_stat_get_tuples_updated(oid) + pg_stat_get_tuples_deleted(oid) > 0
"""
# Guards against a session that did not count; reltuples tells that autovacuum analyzed a table: the planner
# would see the last test's figures.
_RELATIONS_STATE: LiteralString = """
SELECT count(*), sum(xmin::text::bigint), sum(reltuples) FILTER (WHERE oid >= 16384) FROM pg_class
"""
_SEQUENCES: LiteralString = """
SELECT seqrelid::regclass::text, pg_sequence_last_value(seqrelid), seqstart FROM pg_sequence
"""
_SET_SEQUENCE: LiteralString = "SELECT setval(%s::regclass, %s, %s)"
_NO_TRIGGERS: LiteralString = "SET LOCAL session_replication_role = replica"
_EMPTY: LiteralString = "DELETE FROM {relation}"
_COPY_OUT: LiteralString = "COPY {relation} TO STDOUT"
_COPY_IN: LiteralString = "COPY {relation} FROM STDIN"
# The next test sees no counters of this one, nor of the reset.
_FLUSH_COUNTERS: LiteralString = "SELECT pg_stat_force_next_flush()"
_CLEAR_COUNTERS: LiteralString = "SELECT pg_stat_reset()"

Relation = tuple[str, str]
Row = tuple[Any, ...]


@dataclass(frozen=True)
class Snapshot:
    """What a fresh database of the template holds."""

    state: Row
    rows: dict[Relation, bytes]
    sequences: set[Row]


def take_snapshot(connection: "Connection[Row]") -> Snapshot | None:
    """Read a fresh database; None when its kind cannot be reset."""
    if _one(connection, _IS_UNFIT)[0]:
        return None
    rows: dict[Relation, bytes] = {}
    for schema, name in connection.execute(_TABLES).fetchall():
        rows[schema, name] = _copy_out(connection, (schema, name))
        if sum(map(len, rows.values())) > MOST_ROWS_BYTES:
            return None
    return Snapshot(_one(connection, _RELATIONS_STATE), rows, set(connection.execute(_SEQUENCES).fetchall()))


def reset(connection: "Connection[Row]", snapshot: Snapshot) -> bool:
    """Bring the database of this autocommit session back to the snapshot; False when it must be dropped instead.

    No other session may be on the database, and its counters must be complete: see `Admin.counting`.
    """
    with connection.transaction():
        changed = connection.execute(_CHANGED).fetchall()
        if any(is_catalog or size > MOST_TABLE_BYTES for _, _, is_catalog, size in changed):
            return False
        if _one(connection, _RELATIONS_STATE) != snapshot.state:
            return False
        connection.execute(_NO_TRIGGERS)
        for schema, name, _, _ in changed:
            _restore_rows(connection, (schema, name), snapshot.rows.get((schema, name), b""))
        for name, last, start in snapshot.sequences - set(connection.execute(_SEQUENCES).fetchall()):
            connection.execute(_SET_SEQUENCE, (name, start if last is None else last, last is not None))
        connection.execute(_FLUSH_COUNTERS)
    connection.execute(_CLEAR_COUNTERS)
    return True


def _restore_rows(connection: "Connection[Row]", relation: Relation, rows: bytes) -> None:
    connection.execute(_on(_EMPTY, relation))
    if rows:
        with connection.cursor() as cursor, cursor.copy(_on(_COPY_IN, relation)) as copy:
            copy.write(rows)


def _copy_out(connection: "Connection[Row]", relation: Relation) -> bytes:
    with connection.cursor() as cursor, cursor.copy(_on(_COPY_OUT, relation)) as copy:
        return b"".join(map(bytes, copy))


def _one(connection: "Connection[Row]", statement: LiteralString) -> Row:
    return connection.execute(statement).fetchall()[0]


def _on(statement: LiteralString, relation: Relation) -> "Composed":
    from psycopg.sql import SQL, Identifier

    return SQL(statement).format(relation=Identifier(*relation))
