"""Statements that find and delete old work.

None looks for it by status or completed_at, which have no index and get none, since a settle updates them: they walk in
the order of created_at, which lies before completed_at, a page at a time.
"""


class PruneSQL:
    """Pages of candidates first, then what locks and deletes one chunk of them."""

    # What ended before these is old: by the bus's clock, and by wall time, which is that of workers.
    CUTOFFS = "SELECT commandbus.now() - %(age)s, clock_timestamp() - %(age)s"

    # Of pages: by the index that has their order, whatever the planner knows of the tables.
    WALKING = """
        SELECT pg_catalog.set_config('jit', 'off', true), pg_catalog.set_config('enable_seqscan', 'off', true),
               pg_catalog.set_config('enable_hashjoin', 'off', true),
               pg_catalog.set_config('enable_mergejoin', 'off', true),
               pg_catalog.set_config('enable_sort', 'off', true)"""

    # Of chunks: by their ids. What a crash of the server brings back, the next prune deletes again.
    DELETING = """
        SELECT pg_catalog.set_config('jit', 'off', true), pg_catalog.set_config('enable_seqscan', 'off', true),
               pg_catalog.set_config('enable_hashjoin', 'off', true),
               pg_catalog.set_config('enable_mergejoin', 'off', true),
               pg_catalog.set_config('synchronous_commit', 'off', true)"""

    BATCHES = """
        SELECT created_at, batch_id, domain FROM commandbus.batch
         WHERE created_at < %(before)s AND (created_at, batch_id) > (%(after_time)s, %(after_id)s)
           AND (%(domains)s::text[] IS NULL OR domain = ANY (%(domains)s::text[]))
         ORDER BY created_at, batch_id LIMIT %(limit)s"""

    # Whether a batch is final and ended before; its counts have just been refreshed.
    BATCH_IS_OLD = """
        SELECT batch_type FROM commandbus.batch
         WHERE batch_id = %(batch_id)s AND status IN ('COMPLETED', 'COMPLETED_WITH_FAILURES')
           AND completed_at < %(before)s"""

    # All members are read for each page: in the order of ids the planner might walk through every other batch.
    BATCH_COMMANDS = """
        WITH members AS MATERIALIZED (
            SELECT command_id FROM commandbus.command WHERE batch_id = %(batch_id)s
        )
        SELECT command_id FROM members
         WHERE command_id > %(after_id)s ORDER BY command_id LIMIT %(limit)s"""

    BATCH_PROCESSES = """
        WITH members AS MATERIALIZED (
            SELECT process_id FROM commandbus.process WHERE batch_id = %(batch_id)s
        )
        SELECT process_id FROM members
         WHERE process_id > %(after_id)s ORDER BY process_id LIMIT %(limit)s"""

    MARK_BATCH = "UPDATE commandbus.batch SET pruning = true WHERE batch_id = %(batch_id)s AND NOT pruning"

    DELETE_BATCH = """
        DELETE FROM commandbus.batch b
         WHERE b.batch_id = %(batch_id)s
           AND NOT EXISTS (SELECT FROM commandbus.command c WHERE c.batch_id = b.batch_id)
           AND NOT EXISTS (SELECT FROM commandbus.process p WHERE p.batch_id = b.batch_id)"""

    # Those of batches come with their batch, or not at all.
    PROCESSES = """
        SELECT p.created_at, p.process_id FROM commandbus.process p
         WHERE p.created_at < %(before)s AND (p.created_at, p.process_id) > (%(after_time)s, %(after_id)s)
           AND NOT EXISTS (SELECT FROM commandbus.batch b WHERE b.batch_id = p.batch_id)
           AND (%(domains)s::text[] IS NULL OR p.domain = ANY (%(domains)s::text[]))
         ORDER BY p.created_at, p.process_id LIMIT %(limit)s"""

    # Each domain and command type that there is: one look into the index for each.
    KINDS = """
        WITH RECURSIVE kinds AS (
            (SELECT domain, command_type FROM commandbus.command ORDER BY domain, command_type LIMIT 1)
            UNION ALL
            SELECT next.domain, next.command_type
              FROM kinds
             CROSS JOIN LATERAL (
                SELECT c.domain, c.command_type FROM commandbus.command c
                 WHERE (c.domain, c.command_type) > (kinds.domain, kinds.command_type)
                 ORDER BY c.domain, c.command_type LIMIT 1) next
        )
        SELECT domain, command_type FROM kinds
         WHERE %(domains)s::text[] IS NULL OR domain = ANY (%(domains)s::text[])"""

    # Those of processes and of batches come with them, or not at all.
    COMMANDS = """
        SELECT created_at, command_id FROM commandbus.command
         WHERE domain = %(domain)s AND command_type = %(command_type)s AND created_at < %(before)s
           AND created_at >= %(after_time)s AND (created_at, command_id) > (%(after_time)s, %(after_id)s)
           AND process_id IS NULL AND batch_id IS NULL
         ORDER BY created_at, command_id LIMIT %(limit)s"""

    # Which of these commands of no process may go; what somebody else is at, another prune or a settle that comes
    # late, stays for the next time.
    LOCK_COMMANDS = """
        SELECT c.command_id FROM commandbus.command c
         WHERE c.command_id = ANY (%(ids)s) AND c.process_id IS NULL
           AND c.status IN ('COMPLETED', 'FAILED', 'CANCELED') AND c.completed_at < %(before)s
           AND NOT EXISTS (SELECT FROM commandbus.reply r WHERE r.command_id = c.command_id)
           AND NOT EXISTS (SELECT FROM commandbus.batch b
                            WHERE b.batch_id = c.batch_id
                              AND NOT (b.status IN ('COMPLETED', 'COMPLETED_WITH_FAILURES')
                                       AND b.completed_at < %(before)s))
         ORDER BY c.command_id FOR UPDATE OF c SKIP LOCKED"""

    # Which of these processes may go, with all their commands.
    LOCK_PROCESSES = """
        SELECT p.process_id FROM commandbus.process p
         WHERE p.process_id = ANY (%(ids)s)
           AND p.status IN ('COMPLETED', 'COMPENSATED', 'FAILED', 'CANCELED') AND p.completed_at < %(before)s
           AND NOT EXISTS (SELECT FROM commandbus.batch b
                            WHERE b.batch_id = p.batch_id
                              AND NOT (b.status IN ('COMPLETED', 'COMPLETED_WITH_FAILURES')
                                       AND b.completed_at < %(before)s))
           AND NOT EXISTS (SELECT FROM commandbus.command c
                            WHERE c.process_id = p.process_id
                              AND (c.status NOT IN ('COMPLETED', 'FAILED', 'CANCELED')
                                   OR EXISTS (SELECT FROM commandbus.reply r WHERE r.command_id = c.command_id)))
         ORDER BY p.process_id FOR UPDATE OF p SKIP LOCKED"""

    # Locked too: a late settle writes into the trail of a command only while it holds the command.
    COMMANDS_OF_PROCESSES = """
        SELECT command_id FROM commandbus.command WHERE process_id = ANY (%(ids)s) ORDER BY command_id FOR UPDATE"""

    COUNT_EVENTS = "SELECT count(*) FROM commandbus.event WHERE command_id = ANY (%(ids)s)"
    DELETE_EVENTS = "DELETE FROM commandbus.event WHERE command_id = ANY (%(ids)s)"

    DELETE_UNCOMPLETED = """
        DELETE FROM commandbus.uncompleted u USING commandbus.command c
         WHERE c.command_id = ANY (%(ids)s) AND c.status IN ('FAILED', 'CANCELED')
           AND (u.domain, u.command_type, u.status, u.created_at, u.command_id)
               = (c.domain, c.command_type, c.status, c.created_at, c.command_id)"""

    DELETE_COMMANDS = "DELETE FROM commandbus.command WHERE command_id = ANY (%(ids)s)"
    DELETE_PROCESSES = "DELETE FROM commandbus.process WHERE process_id = ANY (%(ids)s)"

    # Workers that stopped, and those that died without a word a day ago at least: until then they may come back.
    WORKERS = """
        SELECT worker_id FROM commandbus.worker
         WHERE (stopped_at < %(before)s
                OR alive_until < least(%(before)s, clock_timestamp() - interval '1 day'))
           AND (%(domains)s::text[] IS NULL OR domain = ANY (%(domains)s::text[]))
         ORDER BY worker_id LIMIT %(limit)s FOR UPDATE SKIP LOCKED"""

    DELETE_WORKERS = "DELETE FROM commandbus.worker WHERE worker_id = ANY (%(ids)s)"

    # What they did, second by second; their table holds an hour.
    COUNT_STATISTICS_OF = "SELECT count(*) FROM commandbus.worker_statistic WHERE worker_id = ANY (%(ids)s)"
    DELETE_STATISTICS_OF = "DELETE FROM commandbus.worker_statistic WHERE worker_id = ANY (%(ids)s)"

    # Of any domain: they only serve to look back an hour. Those of the workers that go too are counted there.
    COUNT_STATISTICS = """
        SELECT count(*) FROM commandbus.worker_statistic
         WHERE second < %(before)s AND NOT worker_id = ANY (%(gone)s)"""
