"""The statements by which faults look at the bus, and do to it what the operating system cannot."""

from typing import LiteralString

# As if nobody had heard of the workers of a process for some time.
SILENT_WORKER: LiteralString = """
    UPDATE commandbus.worker SET alive_until = clock_timestamp()
     WHERE pid = %(pid)s AND host = %(host)s AND stopped_at IS NULL"""

# And as if they had just been heard of, which their next heartbeat would say.
LIVE_WORKER: LiteralString = """
    UPDATE commandbus.worker SET alive_until = clock_timestamp() + %(alive_for)s
     WHERE pid = %(pid)s AND host = %(host)s AND stopped_at IS NULL"""

# The commands that the workers of a process hold.
HELD_BY: LiteralString = """
    SELECT q.command_id, q.epoch FROM commandbus.queue q JOIN commandbus.worker w ON w.worker_id = q.worker_id
     WHERE w.pid = %(pid)s AND w.host = %(host)s"""

# How many of these claims nobody has taken over, settled or given back.
STILL_HELD: LiteralString = """
    SELECT count(*) FROM commandbus.queue q
      JOIN unnest(%(command_ids)s::uuid[], %(epochs)s::integer[]) AS h (command_id, epoch)
        ON q.command_id = h.command_id AND q.epoch = h.epoch
     WHERE q.worker_id IS NOT NULL"""

# Ends the sessions of a worker process, the one that listens too; returns how many.
TERMINATE: LiteralString = """
    SELECT count(*) FILTER (WHERE pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity
     WHERE datname = pg_catalog.current_database() AND application_name = %(application)s"""

# A snapshot is taken by the first statement of such a transaction.
BEGIN_OLD_SNAPSHOT: LiteralString = "BEGIN ISOLATION LEVEL REPEATABLE READ"
TAKE_SNAPSHOT: LiteralString = "SELECT count(*) FROM commandbus.queue"

# The tables and indexes of a database move to a small disk, and what is created later goes there.
CREATE_TABLESPACE: LiteralString = "CREATE TABLESPACE {name} LOCATION {location}"
MOVE_TABLES: LiteralString = "ALTER TABLE ALL IN TABLESPACE pg_default SET TABLESPACE {name}"
MOVE_INDEXES: LiteralString = "ALTER INDEX ALL IN TABLESPACE pg_default SET TABLESPACE {name}"
DROP_TABLESPACE: LiteralString = "DROP TABLESPACE IF EXISTS {name}"
