"""What the tests of test databases share: a template, a clean server, and looks at it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from pytest_commandbus.database import Database
from pytest_commandbus.postgres.admin import Admin
from pytest_commandbus.postgres.server import EmbeddedPostgres

DEADLINE_SECONDS = 20.0


def prepare(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text)")
        connection.execute("CREATE TABLE setting (name text PRIMARY KEY, value text)")
        connection.execute("INSERT INTO setting VALUES ('clock', '0')")


@contextmanager
def clean_admin(server: EmbeddedPostgres) -> Iterator[Admin]:
    """Give a session on the server; afterwards all that tests made there is dropped."""
    admin = Admin(server.dsn())
    yield admin
    for name in databases(admin, "cb_"):
        if name.startswith("cb_template_"):
            with psycopg.connect(server.dsn(), autocommit=True) as connection:
                connection.execute(
                    psycopg.sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(psycopg.sql.Identifier(name))
                )
        admin.drop(name)
    admin.close()


def databases(admin: Admin, prefix: str) -> list[str]:
    return [
        name
        for (name,) in admin.rows(
            "SELECT datname FROM pg_database WHERE starts_with(datname, %(prefix)s) ORDER BY 1", prefix=prefix
        )
    ]


def items(database: Database) -> list[tuple[int, str]]:
    with psycopg.connect(database.dsn) as connection:
        return connection.execute("SELECT id, name FROM item ORDER BY id").fetchall()


def add_item(database: Database, name: str) -> None:
    with psycopg.connect(database.dsn) as connection:
        connection.execute("INSERT INTO item (name) VALUES (%s)", (name,))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)
