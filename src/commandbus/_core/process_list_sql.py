"""Statements that list commandbus.process in pages."""

from typing import LiteralString

from psycopg.sql import SQL, Composed

from commandbus._core.process_sql import ProcessSQL

_PAGE = SQL(
    """
    WITH looked AS MATERIALIZED ({look}
    ), page AS (
        SELECT process_id FROM looked WHERE fits ORDER BY {order} LIMIT %(limit)s
    )
    SELECT last.created_at, last.process_id, (SELECT count(*) FROM looked), found.*
      FROM (SELECT) once
      LEFT JOIN (SELECT created_at, process_id FROM looked ORDER BY {reverse} LIMIT 1) last ON true
      LEFT JOIN (SELECT {columns} FROM page JOIN commandbus.process USING (process_id)) found ON true
     ORDER BY {found}"""
)

_FITS = SQL(
    """(%(status)s::text IS NULL OR status = %(status)s)
               AND (%(process_type)s::text IS NULL OR process_type = %(process_type)s)
               AND (%(domain)s::text IS NULL OR domain = %(domain)s)"""
)

_OLDEST = SQL(
    """
        SELECT process_id, created_at, {fits} AS fits FROM commandbus.process
         WHERE process_id > %(after)s ORDER BY process_id LIMIT %(most)s"""
)
_NEWEST = SQL(
    """
        SELECT process_id, created_at, {fits} AS fits FROM commandbus.process
         WHERE process_id < %(after)s ORDER BY process_id DESC LIMIT %(most)s"""
)

# No index has a batch's processes in an order, but in the order of their start they lie together, after their batch.
_OF_BATCH = SQL(
    """
        SELECT process_id, created_at, (batch_id = %(batch_id)s) IS TRUE AND {fits} AS fits FROM commandbus.process
         WHERE created_at >= coalesce(
                   %(after_time)s, (SELECT b.created_at FROM commandbus.batch b WHERE b.batch_id = %(batch_id)s),
                   '-infinity')
           AND (%(after_time)s::timestamptz IS NULL OR (created_at, process_id) > (%(after_time)s, %(after)s))
         ORDER BY created_at, process_id LIMIT %(most)s"""
)

# One more than `few` tells that they are not few.
_FEW: LiteralString = """
        SELECT process_id, created_at, {fits} AND (
                   %(after_time)s::timestamptz IS NULL OR (created_at, process_id) > (%(after_time)s, %(after)s)
               ) AS fits
          FROM commandbus.process WHERE batch_id = %(batch_id)s"""


def _page(look: SQL, *keys: LiteralString, descending: bool = False) -> Composed:
    here, back = (SQL(" DESC"), SQL(" ASC")) if descending else (SQL(" ASC"), SQL(" DESC"))
    return _PAGE.format(
        look=look.format(fits=_FITS),
        order=SQL(", ").join(SQL(key) + here for key in keys),
        reverse=SQL(", ").join(SQL(key) + back for key in keys),
        found=SQL(", ").join(SQL("found.") + SQL(key) + here for key in keys),
        columns=SQL(ProcessSQL.SELECT_COLUMNS),
    )


class ProcessListSQL:
    """A page of what fits among the next rows that an index leads to; how many it looks at is bounded.

    Each row begins with the created_at and the process_id at which the look ended, and with how many rows it saw;
    there is one row without a process when none fits.
    """

    # Without statistics the planner would read a whole table for what an index leads to. Until the savepoint ends.
    PIN = "SELECT set_config(name, 'off', true) FROM unnest(ARRAY['enable_seqscan', 'enable_bitmapscan']) AS name"

    OLDEST = _page(_OLDEST, "process_id")
    NEWEST = _page(_NEWEST, "process_id", descending=True)
    OF_BATCH = _page(_OF_BATCH, "created_at", "process_id")
    FEW_OF_BATCH = _page(SQL(_FEW + " LIMIT %(few)s + 1"), "created_at", "process_id")
    FEW_OF_STATUS = _page(SQL(_FEW + " AND status = %(status)s LIMIT %(few)s + 1"), "created_at", "process_id")
