"""The database of an application that runs by hand: on an embedded server, or kept on one that CB_POSTGRES names."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg_pool import AsyncConnectionPool

from pytest_commandbus.behavior import BehaviorRepository
from pytest_commandbus.chaos_rules import ChaosRules
from pytest_commandbus.postgres import databases_sql
from pytest_commandbus.postgres.admin import Admin
from pytest_commandbus.postgres.dsn import Dsn, with_database
from pytest_commandbus.postgres.resolve import EMBEDDED, resolve_server
from pytest_commandbus.template import prepare

VARIABLE = "CB_POSTGRES"
KEPT = "statement_reports"
"""The database on a server of one's own: it is made when it is not there, and stays."""
_MIGRATIONS = Path(__file__).with_name("migrations")


@contextmanager
def open_database(*, is_kept: bool) -> Iterator[Dsn]:
    """Give a prepared database while the block runs. Raises PostgresError for a server that cannot be had.

    On a server of one's own it is the one called statement_reports when `is_kept`, else a new one that is dropped.
    """
    server = resolve_server(os.environ.get(VARIABLE) or EMBEDDED)
    admin = Admin(server.dsn)
    name = KEPT if is_kept else f"{KEPT}_{secrets.token_hex(4)}"
    try:
        with admin.locked(f"make {KEPT}"):
            if not admin.rows(databases_sql.MARK_OF, name=name):
                admin.create(name)
            dsn = with_database(server.dsn, name)
            prepare(dsn, [_MIGRATIONS])
        yield dsn
        if not is_kept and server.own is None:
            admin.drop(name)
    finally:
        admin.close()
        server.stop()


async def store_seed(pool: AsyncConnectionPool[object], seed: int) -> None:
    """Say what all rolls depend on, before the first worker starts. A rolled timeout lasts as long as its lease."""
    await BehaviorRepository(pool).store_rules(seed, ChaosRules(), skips_time=False)
