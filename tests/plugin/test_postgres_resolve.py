"""--cb-postgres names the server of the run; a password in it is never shown."""

import shlex
import subprocess

import psycopg
import pytest

from pytest_commandbus.postgres.dsn import Dsn
from pytest_commandbus.postgres.errors import PostgresError
from pytest_commandbus.postgres.resolve import Server, resolve_server

CANARY = "canary-3f9c"


def test_embedded_starts_a_server_and_stops_it() -> None:
    server = resolve_server("embedded")
    try:
        assert server.embedded is not None
        assert server.strategy == "file_copy"
        with psycopg.connect(server.dsn) as connection:
            assert connection.execute("SELECT current_database()").fetchone() == ("postgres",)
        line = [*shlex.split(server.psql("cb_x")), "-Atc", "SELECT 1"]
        assert subprocess.run(line, capture_output=True, text=True, check=False).stderr.count("cb_x") == 1
    finally:
        server.stop()
    assert server.embedded.pid is None


def test_container_is_refused_with_what_to_use_instead() -> None:
    with pytest.raises(PostgresError, match="container is not available yet: use --cb-postgres=embedded"):
        resolve_server("container")


def test_a_misspelt_option_is_told_what_is_valid() -> None:
    with pytest.raises(PostgresError, match="embeded is neither embedded nor a connection string"):
        resolve_server("embeded")


@pytest.mark.parametrize(
    ("given", "database"),
    [
        (f"postgresql://me:{CANARY}@db.example/admin", "admin"),
        (f"postgresql://me:{CANARY}@db.example", "postgres"),
        (f"host=db.example user=me password={CANARY}", "postgres"),
    ],
)
def test_a_connection_string_is_taken_without_showing_its_password(given: str, database: str) -> None:
    server = resolve_server(given)
    parts = psycopg.conninfo.conninfo_to_dict(server.dsn)
    assert (parts["password"], parts["dbname"]) == (CANARY, database)
    assert server.strategy == "wal_log"
    for shown in (repr(server.dsn), repr([server.dsn]), server.psql("x"), repr(Dsn(given))):
        assert CANARY not in shown
    assert "password=***" in repr(server.dsn)


def test_a_broken_connection_string_does_not_show_its_password() -> None:
    broken = f"host=x password={CANARY} oops"
    with pytest.raises(PostgresError, match="no connection string") as raised:
        resolve_server(broken)
    assert CANARY not in str(raised.value)
    assert raised.value.__suppress_context__
    assert CANARY not in repr(Dsn(broken))


def test_psql_line_of_a_server_of_others_names_the_database() -> None:
    line = Server("host=db.example dbname=admin user=me").psql("cb_1_2")
    program, dsn = shlex.split(line)
    assert program == "psql"
    assert psycopg.conninfo.conninfo_to_dict(dsn) == {"host": "db.example", "dbname": "cb_1_2", "user": "me"}
