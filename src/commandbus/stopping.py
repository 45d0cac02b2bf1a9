"""Stop workers from afar: by a mark that each reads with its next heartbeat."""

from collections.abc import Sequence

from psycopg_pool import AsyncConnectionPool

from commandbus._core.connection import Connection, Pool, transaction
from commandbus.payload import check_name
from commandbus.repositories import workers


async def stop_workers(
    conn_or_pool: Connection | Pool, domain: str | None = None, *, worker_ids: Sequence[int] | None = None
) -> list[int]:
    """Ask the live workers to stop gracefully: all, those of one domain, or those with these ids; returns their ids.

    Each claims nothing new from its next heartbeat on (2 seconds), lets its running handlers end, settles them, gives
    the rest back, and ends; `commandbus worker` does when all of its workers have, and a supervisor starts no other in
    its place. `commandbus.status` tells which are left. Workers that are started later are not meant. Once more
    changes nothing. A connection is written by within its own transaction.
    Raises InvalidNameError for what is no name of a domain.
    """
    asked = None if domain is None else check_name(domain, "domain")
    pool, conn = (conn_or_pool, None) if isinstance(conn_or_pool, AsyncConnectionPool) else (None, conn_or_pool)
    async with transaction(pool, conn) as own:
        return await workers.request_stop(own, asked, worker_ids)
