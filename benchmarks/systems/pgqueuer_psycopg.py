"""pgqueuer on psycopg with uvloop, in batches of 200."""

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
    uvloop.install()
    main(PgQueuerPsycopg())
