"""--cb-postgres names the server of the run; a password in it is never shown."""

import psycopg
import pytest

from pytest_commandbus.postgres.dsn import Dsn
from pytest_commandbus.postgres.errors import PostgresError
from pytest_commandbus.postgres.resolve import resolve_server, without_password
from pytest_commandbus.postgres.server import EmbeddedPostgres

CANARY = "canary-3f9c"


def test_embedded_starts_a_server_and_stops_it() -> None:
    server = resolve_server("embedded")
    try:
        assert isinstance(server.own, EmbeddedPostgres)
        assert server.strategy == "file_copy"
        with psycopg.connect(server.dsn) as connection:
            assert connection.execute("SELECT current_database()").fetchone() == ("postgres",)
    finally:
        server.stop()
    assert server.own.pid is None


def test_a_misspelt_option_is_told_what_is_valid() -> None:
    with pytest.raises(PostgresError, match="embeded is neither embedded, container nor a connection string"):
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
    for shown in (repr(server.dsn), repr([server.dsn]), without_password(server.dsn), repr(Dsn(given))):
        assert CANARY not in shown
    assert "password=***" in repr(server.dsn)


def test_a_server_that_is_away_is_told_without_its_password() -> None:
    with pytest.raises(PostgresError, match=r"cannot connect to .*port=1\b.*check that the server runs") as raised:
        resolve_server(f"host=127.0.0.1 port=1 user=me password={CANARY}").check()
    assert CANARY not in str(raised.value)


def test_a_broken_connection_string_does_not_show_its_password() -> None:
    broken = f"host=x password={CANARY} oops"
    with pytest.raises(PostgresError, match="no connection string") as raised:
        resolve_server(broken)
    assert CANARY not in str(raised.value)
    assert raised.value.__suppress_context__
    assert CANARY not in repr(Dsn(broken))
