"""Bring a database's schema up to date, and tell whether it fits this program.

Migrations are files `V<number>__<name>.sql`, each applied once, in order, in a transaction of its own, by one migrator
at a time. The table commandbus.migration keeps what was applied with a checksum, by scope: `commandbus` is this
package's own; a folder of yours has the folder's name as its scope.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import class_row

from commandbus._core.migration_sql import MigrationSQL
from commandbus.errors import MigrationError, SchemaError
from commandbus.payload import check_name

OWN_SCOPE = "commandbus"
_MOST_DEADLOCKS = 20
_FILE_NAME = re.compile(r"V([0-9]{1,18})__([A-Za-z0-9_-]+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, its whole file name, its text, and the checksum of that text."""

    version: int
    name: str
    text: str
    checksum: str


class Applied(NamedTuple):
    """One migration as the database's history tells it."""

    version: int
    name: str
    checksum: str


def migrate(
    conninfo: str, *, folders: Sequence[Path] = (), on_progress: Callable[[str, int, int], object] | None = None
) -> list[str]:
    """Apply what the database at `conninfo` lacks: this package's migrations, then those of each folder in `folders`.

    Returns the names of the files that this call applied, in order; before each `on_progress(its name, how many are
    applied, how many there are)` is called. Any number of processes may call it at once: one applies, the others wait
    and find it done. A failed migration leaves nothing of itself; those before it stay. One that deadlocks with workers
    at work is tried again.
    Raises MigrationError for a file that cannot be used or fails, SchemaError for a history that does not fit.
    """
    scopes = {OWN_SCOPE: own_migrations()}
    for folder in folders:
        scope = check_name(folder.resolve().name, what="name of a migrations folder")
        if scope in scopes:
            raise MigrationError(
                f"{folder}: the history already has a folder named {scope!r}; rename this one, its name is its scope"
            )
        scopes[scope] = read_migrations(folder)
    with psycopg.connect(conninfo, autocommit=True) as guard, guard.transaction():
        guard.execute(MigrationSQL.NO_TIMEOUTS)
        guard.execute(MigrationSQL.LOCK)
        with psycopg.connect(conninfo, autocommit=True) as conn:
            _ensure_history(conn)
            lacking = [(scope, migration) for scope in scopes for migration in _lacking(conn, scope, scopes[scope])]
            for done, (scope, migration) in enumerate(lacking):
                if on_progress is not None:
                    on_progress(migration.name, done, len(lacking))
                _apply(conn, scope, migration)
    return [migration.name for _, migration in lacking]


async def check_schema(conn: psycopg.AsyncConnection[Any]) -> None:
    """Raise SchemaError, which says how to mend it, unless the database has exactly this package's migrations."""
    async with conn.transaction():
        found = await (await conn.execute(MigrationSQL.HISTORY_EXISTS)).fetchone()
        _refuse_unmigrated(found is not None and found[0])
        async with conn.cursor(row_factory=class_row(Applied)) as cursor:
            await cursor.execute(MigrationSQL.SELECT_APPLIED, {"scope": OWN_SCOPE})
            applied = await cursor.fetchall()
    _refuse_lacking(compare(own_migrations(), applied))


def check_schema_blocking(conn: psycopg.Connection[Any]) -> None:
    """As check_schema, with a blocking connection."""
    found = conn.execute(MigrationSQL.HISTORY_EXISTS).fetchone()
    _refuse_unmigrated(found is not None and found[0])
    _refuse_lacking(_lacking(conn, OWN_SCOPE, own_migrations()))


def _refuse_unmigrated(has_history: bool) -> None:
    if not has_history:
        raise SchemaError("the database has no commandbus schema; create it with `commandbus migrate --dsn ...`")


def _refuse_lacking(lacking: Sequence[Migration]) -> None:
    if lacking:
        names = ", ".join(migration.name for migration in lacking)
        raise SchemaError(f"the database lacks {names}; apply it with `commandbus migrate --dsn ...`")


def compare(known: Sequence[Migration], applied: Sequence[Applied]) -> list[Migration]:
    """Return the known migrations that are still to be applied; both sequences are ordered by version.

    Raises SchemaError if the history has a migration that is newer than all known ones; MigrationError if it has one
    that is missing or edited here, or if one that was never applied stands before one that was.
    """
    by_version = {migration.version: migration for migration in known}
    newest_known = known[-1].version if known else 0
    for version, name, checksum in applied:
        migration = by_version.get(version)
        if migration is None and version > newest_known:
            raise SchemaError(
                f"the database has {name}, which is newer than this program knows (up to number {newest_known}); "
                "upgrade the package that brings the migrations"
            )
        if migration is None:
            raise MigrationError(f"{name} was applied to the database, but its file is missing here; put it back")
        if migration.name != name:
            raise MigrationError(f"number {version} was applied as {name}, but is {migration.name} here; put it back")
        if migration.checksum != checksum:
            raise MigrationError(
                f"{name} was edited after it was applied; restore the file and put the change into a new migration"
            )
    newest_applied = applied[-1].version if applied else 0
    lacking = [migration for migration in known if migration.version not in {row.version for row in applied}]
    if lacking and lacking[0].version < newest_applied:
        raise MigrationError(
            f"{lacking[0].name} was never applied, but number {newest_applied} after it was; "
            "give it a number after that one"
        )
    return lacking


def own_migrations() -> list[Migration]:
    """This package's migrations: inside the package in a wheel, beside `src` in an editable installation."""
    folder: Traversable = resources.files("commandbus").joinpath("migrations")
    if not folder.is_dir():
        folder = Path(__file__).resolve().parents[2] / "migrations"
    if not folder.is_dir():
        raise MigrationError("this installation of pytest-commandbus lacks its migrations; install it again")
    own = read_migrations(folder)
    if [migration.version for migration in own] != list(range(1, len(own) + 1)):
        raise MigrationError(f"{folder}: a number is left out; install pytest-commandbus again")
    return own


def read_migrations(folder: Traversable) -> list[Migration]:
    """Read the .sql files of `folder`, ordered by number. Raises MigrationError for a misnamed or doubled one."""
    if not folder.is_dir():
        raise MigrationError(f"{folder}: no such folder of migrations")
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".sql")), key=lambda file: file.name)
    migrations = sorted(map(_read, files), key=lambda migration: migration.version)
    for one, next_one in pairwise(migrations):
        if one.version == next_one.version:
            raise MigrationError(f"{folder}: {one.name} and {next_one.name} have the same number; renumber one of them")
    if not migrations:
        raise MigrationError(f"{folder}: no file named V<number>__<name>.sql in it")
    return migrations


def _read(file: Traversable) -> Migration:
    named = _FILE_NAME.fullmatch(file.name)
    if named is None or int(named[1]) == 0:
        raise MigrationError(f"{file}: a migration is named V<number>__<name>.sql, with a number from 1 on")
    try:
        text = file.read_text(encoding="utf-8")  # with line ends translated: those of a checkout are no edit
    except UnicodeDecodeError as error:
        raise MigrationError(f"{file}: not UTF-8 text ({error}); convert it") from error
    return Migration(int(named[1]), file.name, text, hashlib.sha256(text.encode()).hexdigest())


def _ensure_history(conn: psycopg.Connection[Any]) -> None:
    # looked at first: in an up-to-date database a role that may not create anything can still migrate
    found = conn.execute(MigrationSQL.HISTORY_EXISTS).fetchone()
    if found is None or not found[0]:
        conn.execute(MigrationSQL.CREATE_HISTORY)


def _lacking(conn: psycopg.Connection[Any], scope: str, known: Sequence[Migration]) -> list[Migration]:
    with conn.cursor(row_factory=class_row(Applied)) as cursor:
        return compare(known, cursor.execute(MigrationSQL.SELECT_APPLIED, {"scope": scope}).fetchall())


def _apply(conn: psycopg.Connection[Any], scope: str, migration: Migration) -> None:
    try:
        for _ in range(_MOST_DEADLOCKS):
            with suppress(psycopg.errors.DeadlockDetected):  # with workers that go on: once they have, it may pass
                return _apply_once(conn, scope, migration)
        _apply_once(conn, scope, migration)
    except psycopg.Error as error:
        place = _line(migration.text, error.diag.statement_position)
        raise MigrationError(
            f"{migration.name}{place} failed and left nothing behind: {error.diag.message_primary or error}; "
            "mend the cause, and migrate again"
        ) from error


def _apply_once(conn: psycopg.Connection[Any], scope: str, migration: Migration) -> None:
    with conn.transaction():
        conn.execute(MigrationSQL.NO_TIMEOUTS)
        conn.execute(migration.text.encode())
        if conn.info.transaction_status != TransactionStatus.INTRANS:
            raise MigrationError(f"{migration.name} ends its own transaction; remove its COMMIT or ROLLBACK")
        conn.execute(
            MigrationSQL.INSERT,
            {"scope": scope, "version": migration.version, "name": migration.name, "checksum": migration.checksum},
        )


def _line(text: str, position: str | None) -> str:
    return "" if position is None else f", line {text.count(chr(10), 0, int(position)) + 1},"
