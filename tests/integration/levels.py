"""Databases at an older level of the schema, with data in them that is valid there.

The data of a level are plain inserts in upgrades/V<number>.sql; a level without such a file has those below it.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from commandbus.migrate import OWN_SCOPE, Migration, _apply, _ensure_history, own_migrations
from pytest_commandbus.postgres.account import server_account
from pytest_commandbus.postgres.binaries import find_binaries

OWN = own_migrations()
DATA = Path(__file__).with_name("upgrades")
Rows = dict[str, list[dict[str, Any]]]


def apply(dsn: str, *migrations: Migration) -> None:
    """Apply migrations as `commandbus migrate` does, without looking at what comes after them."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        _ensure_history(conn)
        for migration in migrations:
            _apply(conn, OWN_SCOPE, migration)


def fill(dsn: str, level: int) -> None:
    """Write the data that belong to just this level."""
    file = DATA / f"V{level:03}.sql"
    if file.exists():
        with psycopg.connect(dsn) as conn:
            conn.execute(file.read_bytes())


def bring_to(dsn: str, level: int) -> None:
    """Make an empty database one that was at each level up to this one while it was used."""
    for migration in OWN[:level]:
        apply(dsn, migration)
        fill(dsn, migration.version)


def rows(dsn: str) -> Rows:
    """Every row of our schema, by table; the history of migrations left out."""
    found: Rows = {}
    with psycopg.connect(dsn) as conn:
        tables = conn.execute(
            "SELECT relname::text FROM pg_class WHERE relnamespace = 'commandbus'::regnamespace"
            " AND relkind IN ('r', 'p') AND relname <> 'migration' ORDER BY relname"
        ).fetchall()
        for (table,) in tables:
            statement = sql.SQL("SELECT to_jsonb(t) FROM commandbus.{} t").format(sql.Identifier(table))
            found[table] = [row for (row,) in conn.execute(statement).fetchall()]
    return found


def lost(before: Rows, after: Rows) -> Rows:
    """The rows of before that are not there any more, or not as they were; new columns and tables are no loss."""
    gone: Rows = {}
    for table, old in before.items():
        new = after.get(table, [])
        columns = set(old[0]) if old else set()
        there = {_text({name: row.get(name) for name in columns}) for row in new}
        missing = [row for row in old if _text(row) not in there]
        if missing or len(new) < len(old):
            gone[table] = missing
    return gone


def _text(row: dict[str, Any]) -> str:
    return json.dumps(row, sort_keys=True)


def schema(dsn: str) -> str:
    """The whole schema as statements, in an order that does not depend on how it came about."""
    program = find_binaries(server_account()).program("pg_dump")
    command: Sequence[str] = [program, "--schema-only", "--no-owner", "--dbname", dsn]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return "\n".join(line for line in lines if not line.startswith(("\\restrict", "\\unrestrict")))


def history(dsn: str) -> list[tuple[Any, ...]]:
    """What was applied, but not when."""
    with psycopg.connect(dsn) as conn:
        return conn.execute(
            "SELECT scope, version, name, checksum FROM commandbus.migration ORDER BY scope, version"
        ).fetchall()
