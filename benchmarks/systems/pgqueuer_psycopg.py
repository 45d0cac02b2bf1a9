"""pgqueuer on psycopg, otherwise as on asyncpg."""

from typing import Any

import psycopg
import uvloop
from pgqueuer.db import PsycopgDriver

from benchmarks.systems._protocol import main
from benchmarks.systems.pgqueuer_asyncpg import PgQueuerAsyncpg


class PgQueuerPsycopg(PgQueuerAsyncpg):
    async def connect(self, dsn: str) -> Any:
        return await psycopg.AsyncConnection.connect(dsn, autocommit=True)

    def driver(self, connection: Any) -> Any:
        return PsycopgDriver(connection)


if __name__ == "__main__":
    main(PgQueuerPsycopg(), uvloop.new_event_loop)
