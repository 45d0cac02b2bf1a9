"""Workers as the database knows them."""

import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import orjson

from commandbus._core.connection import Connection
from commandbus._core.worker_sql import WorkerSQL
from commandbus.statistics import WorkerCounts as WorkerCounts

HEARTBEAT = 2.0  # seconds between heartbeats
ALIVE_FOR = timedelta(seconds=10 * HEARTBEAT)  # without a heartbeat, then a worker counts as dead
STATISTICS_KEPT = timedelta(hours=1)


class Heard(NamedTuple):
    """What a heartbeat hears: the command types that only others handle, and whether the worker is to stop."""

    others_types: frozenset[str] = frozenset()
    is_to_stop: bool = False


async def register(
    conn: Connection,
    domain: str,
    command_types: Sequence[str],
    process_types: Sequence[str],
    concurrency: int,
    counts: WorkerCounts | None = None,
) -> int:
    """Register this process as a worker; returns its id, and tells `counts` the database's time.

    So even a worker that ends before its first heartbeat can say when it did what.
    """
    params = {
        "domain": domain,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command_types": list(command_types),
        "process_types": list(process_types),
        "concurrency": concurrency,
        "version": library_version(),
        "alive_for": ALIVE_FOR,
    }
    cursor = await conn.execute(WorkerSQL.REGISTER, params)
    row = await cursor.fetchone()
    if row is None:
        return 0
    if counts is not None:
        counts.by_second.stored([], row[1])
    return int(row[0])


async def heartbeat(conn: Connection, worker_id: int, counts: WorkerCounts, *, stopped: bool = False) -> Heard:
    """Tell that the worker lives, or that it has stopped, and what it has done.

    It may be sent again after an answer that was lost.
    """
    rows = counts.by_second.rows(all_of_them=stopped)
    params = {
        "worker_id": worker_id,
        "alive_for": ALIVE_FOR,
        "stopped": stopped,
        "claimed": counts.claimed,
        "completed": counts.completed,
        "failed": counts.failed,
        "retried": counts.retried,
        "parked": counts.parked,
        "dropped": counts.dropped,
        "statistics": orjson.dumps(rows).decode(),
    }
    row = await (await conn.execute(WorkerSQL.HEARTBEAT, params)).fetchone()
    if row is None:
        return Heard()
    counts.by_second.stored(rows, row[0])
    return Heard(frozenset(row[1]), row[2])


async def request_stop(conn: Connection, domain: str | None, worker_ids: Sequence[int] | None) -> list[int]:
    """Ask live workers to stop, those to which all applies that is not None; returns their ids, in order."""
    params = {"domain": domain, "worker_ids": None if worker_ids is None else list(worker_ids)}
    cursor = await conn.execute(WorkerSQL.REQUEST_STOP, params)
    return sorted(row[0] for row in await cursor.fetchall())


async def forget(conn: Connection, kept: timedelta = STATISTICS_KEPT) -> int:
    """Drop the statistics that are older than `kept`, a bounded number at a time; returns how many rows."""
    return (await conn.execute(WorkerSQL.FORGET, {"kept": kept})).rowcount


async def handles(conn: Connection, domain: str, command_type: str) -> bool:
    """Whether some live worker handles this command type."""
    cursor = await conn.execute(WorkerSQL.HANDLES, {"domain": domain, "command_type": command_type})
    row = await cursor.fetchone()
    return bool(row and row[0])


async def others_types(conn: Connection, worker_id: int) -> frozenset[str]:
    """Return the command types of the worker's domain that only others handle: it leaves those to them."""
    cursor = await conn.execute(WorkerSQL.OTHERS_TYPES, {"worker_id": worker_id})
    return frozenset([row[0] for row in await cursor.fetchall()])


@cache
def library_version() -> str:
    """The version of this library, empty when it runs without having been installed."""
    try:
        return version("pytest-commandbus")
    except PackageNotFoundError:
        return ""
