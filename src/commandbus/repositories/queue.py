"""The worker's verbs on the queue."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from psycopg.rows import args_row

from commandbus._core.arrays import execute
from commandbus._core.connection import Connection
from commandbus._core.queue_sql import Claimed, QueueParams, QueueSQL
from commandbus._core.settle_sql import Advanced, SettleParams, SettleSQL
from commandbus.outcome import Outcome


async def claim(
    conn: Connection,
    domain: str,
    worker_id: int,
    *,
    limit: int,
    lease: float,
    max_attempts: int,
    after: int,
    only: str | None = None,
    excluding: Sequence[str] = (),
) -> list[Claimed]:
    """Lease up to `limit` due commands for `lease` seconds, in seq order, from beyond seq `after`.

    Of the one command type `only`, or of every type that is not in `excluding`.
    """
    params = {
        "domain": domain,
        "worker": worker_id,
        "limit": limit,
        "lease": QueueParams.lease(lease),
        "max_attempts": max_attempts,
        "after": after,
        "only": only,
        "except": list(excluding) or None,
    }
    async with conn.cursor(binary=True, row_factory=args_row(Claimed)) as cursor:
        await cursor.execute(QueueSQL.CLAIM, params)
        return await cursor.fetchall()


async def renew(
    conn: Connection, worker_id: int, claims: Sequence[Claimed], lease: float, *, audited: bool = False
) -> dict[int, datetime]:
    """Prolong leases to `lease` seconds from now; returns the new ends by seq, without those that were lost."""
    params = {
        **QueueParams.claims(worker_id, claims),
        "lease": QueueParams.lease(lease),
        "audited": audited,
    }
    cursor = await conn.execute(QueueSQL.RENEW, params)
    return dict(await cursor.fetchall())


async def release(conn: Connection, domain: str, worker_id: int, claims: Sequence[Claimed]) -> None:
    """Give commands back that were not started."""
    await conn.execute(QueueSQL.RELEASE, {"domain": domain, **QueueParams.claims(worker_id, claims)})


async def release_unknown(conn: Connection, domain: str, worker_id: int, known: Collection[int]) -> None:
    """Give back what the worker holds without knowing it; `known` are the seqs that it knows."""
    await conn.execute(QueueSQL.RELEASE_UNKNOWN, {"domain": domain, "worker": worker_id, "known": list(known)})


async def lock_claims(conn: Connection, worker_id: int, claims: Sequence[Claimed]) -> dict[int, bool]:
    """Lock the claims that are still the worker's until the transaction ends.

    Returns their seqs, each with whether its process was cancelled meanwhile.
    """
    cursor = await conn.execute(QueueSQL.LOCK_CLAIMS, QueueParams.claims(worker_id, claims))
    return dict(await cursor.fetchall())


async def settle(
    conn: Connection,
    domain: str,
    worker_id: int,
    ended: Sequence[tuple[Claimed, Outcome]],
    advanced: Sequence[Advanced],
    outcomes: Sequence[dict[str, Any]],
) -> tuple[set[int], set[int]]:
    """Record outcomes, advance processes and send the next commands: see SettleParams.settle.

    Returns the seqs that were lost, and those to decide about again since their processes were cancelled meanwhile.
    """
    params = SettleParams.settle(domain, worker_id, ended, advanced, outcomes)
    lost, canceling = await execute(conn, SettleSQL.SETTLE, params) or ((), ())
    if not lost and not canceling:
        return set(), set()
    seqs = {claimed.command_id: claimed.seq for claimed, _ in ended}
    return {seqs[command_id] for command_id in lost}, {seqs[command_id] for command_id in canceling}


async def sweep(conn: Connection, domain: str, upto: int | None = None) -> int:
    """Park the commands that lost their last lease; returns how many."""
    cursor = await conn.execute(QueueSQL.SWEEP, {"domain": domain, "upto": upto})
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def next_due(conn: Connection, domain: str) -> float | None:
    """Seconds until the domain's next retry is due (below 0 when it is), None when none waits."""
    cursor = await conn.execute(QueueSQL.NEXT_DUE, {"domain": domain})
    row = await cursor.fetchone()
    return row[0] if row else None
