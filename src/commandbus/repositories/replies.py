"""Replies in the database, for their consumers."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from commandbus._core.connection import Connection
from commandbus._core.reply_sql import ReplyParsers, ReplySQL
from commandbus.models import ReceivedReply


async def receive(conn: Connection, reply_to: str, *, limit: int, lease: float) -> list[ReceivedReply]:
    """Lease the oldest replies of an address that nobody holds, for `lease` seconds."""
    params = {"reply_to": reply_to, "limit": limit, "lease": timedelta(seconds=lease)}
    return [ReplyParsers.received(row) for row in await (await conn.execute(ReplySQL.RECEIVE, params)).fetchall()]


async def acknowledge(conn: Connection, replies: Sequence[ReceivedReply]) -> set[int]:
    """Delete received replies; returns the reply_ids of those that were still the consumer's."""
    cursor = await conn.execute(ReplySQL.ACKNOWLEDGE, _claims(replies))
    return {row[0] for row in await cursor.fetchall()}


async def release(conn: Connection, reply_to: str, replies: Sequence[ReceivedReply]) -> None:
    """Give received replies back, as far as they are still the consumer's."""
    await conn.execute(ReplySQL.RELEASE, {"reply_to": reply_to, **_claims(replies)})


def _claims(replies: Sequence[ReceivedReply]) -> dict[str, Any]:
    return {"reply_ids": [r.reply_id for r in replies], "epochs": [r.epoch for r in replies]}
