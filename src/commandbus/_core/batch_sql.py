"""Statements on commandbus.batch."""

from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.sql import SQL

from commandbus._core.command_sql import load_json
from commandbus.models import BatchMetadata, BatchStatus, BatchType


class BatchSQL:
    """Counts are computed when a batch is read: REFRESH, then GET."""

    CREATE = """
        INSERT INTO commandbus.batch (batch_id, domain, batch_type, name, custom_data, status, total_count,
                                      created_at, completed_at)
        SELECT %(batch_id)s, %(domain)s, %(batch_type)s, %(name)s, %(custom_data)s::json,
               CASE WHEN %(total_count)s = 0 THEN 'COMPLETED' ELSE 'PENDING' END, %(total_count)s,
               t.now, CASE WHEN %(total_count)s = 0 THEN t.now END
          FROM (SELECT commandbus.now()) AS t (now)"""

    DOMAIN_OF = "SELECT domain FROM commandbus.batch WHERE batch_id = %(batch_id)s"

    REFRESH = "SELECT commandbus.sp_refresh_batch_stats(%(domain)s, %(batch_id)s)"

    COLUMNS = """domain, batch_id, batch_type, name, custom_data::text, status, total_count, completed_count,
               failed_count, canceled_count, in_troubleshooting_count, created_at, started_at, completed_at"""

    GET = SQL("SELECT {columns} FROM commandbus.batch WHERE domain = %(domain)s AND batch_id = %(batch_id)s").format(
        columns=SQL(COLUMNS)
    )

    # A page of batches, newest first, those that have not ended recounted; a last row without a domain has the
    # created_at and batch_id that the next page begins after.
    READ = SQL(
        """
        SELECT {columns}
          FROM commandbus.read_batches(%(domain)s, %(batch_type)s, %(status)s, %(created_at)s, %(batch_id)s,
                                       %(limit)s)"""
    ).format(columns=SQL(COLUMNS))


class BatchParsers:
    """Rows as values."""

    @staticmethod
    def from_row(row: tuple[Any, ...]) -> BatchMetadata:
        """Parse a row of COLUMNS."""
        domain, batch_id, batch_type, name, custom_data, status, *rest = row
        return BatchMetadata(
            domain, batch_id, BatchType(batch_type), name, load_json(custom_data), BatchStatus(status), *rest
        )

    @staticmethod
    def key(row: tuple[Any, ...]) -> tuple[datetime, UUID]:
        """Where a row of READ stands in the listing."""
        return row[11], row[1]
