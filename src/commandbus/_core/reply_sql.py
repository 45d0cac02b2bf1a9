"""Statements on commandbus.reply, but those of the processes' routers, which stand with the processes."""

from typing import Any

from commandbus._core.command_sql import load_json
from commandbus.headers import load_headers
from commandbus.models import ReceivedReply, ReplyOutcome


class ReplySQL:
    """Each is one round trip for any number of replies."""

    RECEIVE = """
        SELECT reply_id, epoch, lease_until, created_at, command_id, correlation_id, outcome, result, error_code,
               error_message, headers
          FROM commandbus.receive_replies(%(reply_to)s, %(limit)s, %(lease)s)"""

    ACKNOWLEDGE = "SELECT commandbus.acknowledge_replies(%(reply_ids)s, %(epochs)s)"

    RELEASE = "SELECT commandbus.release_replies(%(reply_to)s, %(reply_ids)s, %(epochs)s)"


class ReplyParsers:
    """Rows as values."""

    @staticmethod
    def received(row: tuple[Any, ...]) -> ReceivedReply:
        """Parse a row of RECEIVE."""
        reply_id, epoch, lease_until, created_at, command_id, correlation_id, outcome, result, *error, headers = row
        return ReceivedReply(
            command_id,
            correlation_id,
            ReplyOutcome(outcome),
            load_json(result),
            *error,
            reply_id=reply_id,
            epoch=epoch,
            lease_until=lease_until,
            created_at=created_at,
            headers=load_headers(headers),
        )
