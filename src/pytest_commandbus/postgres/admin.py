"""A session on the server's administrative database: makes, clones, marks and drops databases, and holds locks."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, LiteralString

from . import databases_sql

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composable

RUN_MARK = "pytest-commandbus run "
"""What the mark of a run's database begins with; its run follows."""

APPLICATION_NAME = "pytest-commandbus"
"""Of the sessions that make and lend databases."""

SESSION_END_SECONDS = 0.2
_POLL_SECONDS = 0.001


class Admin:
    """One autocommit session, opened at its first use and opened anew when it was lost."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: Connection[tuple[Any, ...]] | None = None

    @property
    def connected(self) -> bool:
        """Whether the session is open, and with it what it holds."""
        return self._connection is not None and not self._connection.closed

    def close(self) -> None:
        """End the session, and with it its locks."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def touch(self) -> None:
        """Open the session and end it."""
        self._session()
        self.close()

    def rows(self, statement: LiteralString, **values: Any) -> list[tuple[Any, ...]]:
        """Run one statement with parameters; return its rows."""
        return self._session().execute(statement, values).fetchall()

    def create(self, name: str) -> None:
        """Create an empty database."""
        self._run(databases_sql.CREATE, name=self._name(name))

    def clone(self, name: str, template: str, strategy: str, mark: str) -> None:
        """Create a database from a sealed template, and mark whose it is."""
        from psycopg.sql import Literal

        self._run(databases_sql.CLONE, name=self._name(name), template=self._name(template), strategy=Literal(strategy))
        self.mark(name, mark)

    def mark(self, name: str, mark: str) -> None:
        """Write on a database whose it is."""
        from psycopg.sql import Literal

        self._run(databases_sql.MARK, name=self._name(name), mark=Literal(mark))

    def seal(self, name: str) -> None:
        """Make a finished database a template: nobody connects to it any more."""
        self.end_sessions(name)
        self._run(databases_sql.SEAL, name=self._name(name))

    def rename(self, name: str, new_name: str) -> None:
        """Rename a database that nobody is connected to."""
        self._run(databases_sql.RENAME, name=self._name(name), new_name=self._name(new_name))

    def drop(self, name: str) -> None:
        """Drop a database if it exists, ending the sessions on it."""
        # The server waits 100 ms for a session that is just ending: looking first is quicker.
        self.end_sessions(name)
        self._run(databases_sql.DROP, name=self._name(name))

    def end_sessions(self, name: str) -> None:
        """End the sessions on a database and wait a moment for their end."""
        deadline = time.monotonic() + SESSION_END_SECONDS
        if not self.rows(databases_sql.END_SESSIONS, name=name):
            return
        while self._sessions(name) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def counting(self, name: str) -> list[tuple[Any, ...]]:
        """Return what stays the same while a database is as it was made, and its counters are complete."""
        return self.rows(databases_sql.COUNTING, name=name)

    def marked(self, prefix: str) -> list[tuple[str, str]]:
        """Return the databases whose mark begins so: (name, mark)."""
        rows = self.rows(databases_sql.MARKED, prefix=prefix, run_mark=RUN_MARK)
        return [(name, mark) for name, mark in rows]

    @contextmanager
    def locked(self, what: str) -> Iterator[None]:
        """Hold the exclusive advisory lock named `what`."""
        key = lock_key(what)
        self.rows(databases_sql.LOCK, key=key)
        try:
            yield
        finally:
            if self.connected:
                self.rows(databases_sql.UNLOCK, key=key)

    @contextmanager
    def tried(self, what: str) -> Iterator[bool]:
        """Hold the exclusive advisory lock named `what` if it is free; the value tells whether it was."""
        key = lock_key(what)
        held = bool(self.rows(databases_sql.TRY_LOCK, key=key)[0][0])
        try:
            yield held
        finally:
            if held and self.connected:
                self.rows(databases_sql.UNLOCK, key=key)

    def _sessions(self, name: str) -> int:
        return int(self.rows(databases_sql.SESSIONS, name=name)[0][0])

    def _run(self, statement: LiteralString, **names: "Composable") -> None:
        from psycopg.sql import SQL

        self._session().execute(SQL(statement).format(**names))

    @staticmethod
    def _name(name: str) -> "Composable":
        from psycopg.sql import Identifier

        return Identifier(name)

    def _session(self) -> "Connection[tuple[Any, ...]]":
        import psycopg

        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(self._dsn, autocommit=True, application_name=APPLICATION_NAME)
        return self._connection


def lock_key(what: str) -> int:
    """Return the key of the advisory lock of this name."""
    return int.from_bytes(hashlib.blake2b(f"pytest-commandbus:{what}".encode(), digest_size=8).digest(), signed=True)
