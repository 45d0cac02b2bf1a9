"""The server of the integration tests, and databases on it that no other process of the run touches."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo


class Server:
    """A server, the embedded one or one that was named by a DSN; its databases end with it."""

    def __init__(self, dsn_of: Callable[[str], str]) -> None:
        self._dsn_of = dsn_of
        self._databases: set[str] = set()

    def dsn(self, name: str) -> str:
        """Return the DSN of a database that `create` made."""
        return self._dsn_of(self._own(name))

    def create(self, name: str, template: str | None = None) -> str:
        """Create a database, as a copy of another one of ours, in place of its namesake; returns its DSN."""
        if name in self._databases:  # of a module's fixture, whose file xdist took from this worker and brought back
            self.drop(name)
        source = "template1" if template is None else self._own(template)
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        self._run(create.format(sql.Identifier(self._own(name)), sql.Identifier(source)))
        self._databases.add(name)
        return self.dsn(name)

    def drop(self, name: str) -> None:
        """Drop a database if it is there, whoever is connected."""
        self._run(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(self._own(name))))
        self._databases.discard(name)

    @contextmanager
    def database(self, name: str, template: str | None = None) -> Iterator[str]:
        """Lend a database for a while."""
        try:
            yield self.create(name, template)
        finally:
            self.drop(name)

    def close(self) -> None:
        """Drop what is left."""
        for name in list(self._databases):
            self.drop(name)

    def _own(self, name: str) -> str:
        return f"{name}_{os.getpid()}"

    def _run(self, statement: sql.Composed) -> None:
        with psycopg.connect(self._dsn_of("postgres"), autocommit=True) as conn:
            conn.execute(statement)


def server_at(dsn: str) -> Server:
    """Return the server that a DSN leads to."""
    return Server(lambda database: make_conninfo(dsn, dbname=database))
