-- The schema of the plugin and of the E2E application: a clock that can be moved, and what chaos is told.
-- A production database never has it: no migration creates it.
--
-- The clock. commandbus.now() becomes the server's clock plus what was skipped; that only grows, so that time never
-- goes back. It is VOLATILE, so that it reads `skipped` after it got its lock on the table, not before; and the lock
-- (ACCESS SHARE) stays until the end of the transaction. skip_clock wants the table for itself at once or not at
-- all. So whoever has read the clock has finished before it moves, and whoever reads it while it moves waits for the
-- new time: no worker can lease, schedule or stamp anything by a time that has passed meanwhile.

CREATE SCHEMA e2e;

CREATE TABLE e2e.clock (
    one     boolean  PRIMARY KEY DEFAULT true CHECK (one),
    skipped interval NOT NULL DEFAULT '0' CHECK (skipped >= '0')
);
INSERT INTO e2e.clock DEFAULT VALUES;

-- When the clock was moved, so that wall time can be told from the bus's afterwards: rates and latencies go by it.
CREATE TABLE e2e.clock_move (
    moved_at timestamptz NOT NULL,                -- wall time
    skipped  interval    NOT NULL PRIMARY KEY     -- in all, from then on
);

CREATE OR REPLACE FUNCTION commandbus.now() RETURNS timestamptz
LANGUAGE sql VOLATILE
AS $$ SELECT pg_catalog.statement_timestamp() + c.skipped FROM e2e.clock c $$;

-- Whether nobody has anything to do before some time comes: no command is due, every lease is an unexpired one of a
-- worker that is dead, and no reply waits for a process whose manager some live worker has.
CREATE FUNCTION e2e.is_quiet() RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now timestamptz := commandbus.now();
BEGIN
    RETURN NOT EXISTS (
            SELECT FROM commandbus.queue q
             WHERE q.worker_id IS NULL OR q.lease_until <= v_now
                OR EXISTS (SELECT FROM commandbus.worker w
                            WHERE w.worker_id = q.worker_id
                              AND w.stopped_at IS NULL AND w.alive_until > clock_timestamp()))
       AND NOT EXISTS (SELECT FROM commandbus.scheduled s WHERE s.due_at <= v_now)
       AND NOT EXISTS (
            SELECT FROM commandbus.reply r
              JOIN commandbus.worker w ON w.stopped_at IS NULL AND w.alive_until > clock_timestamp()
             WHERE r.reply_to LIKE 'process:%' AND substr(r.reply_to, 9) = ANY (w.process_types));
END
$$;

CREATE FUNCTION e2e.move_clock(p_seconds double precision) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
    WITH moved AS (
        UPDATE e2e.clock SET skipped = skipped + make_interval(secs => p_seconds) RETURNING skipped
    )
    INSERT INTO e2e.clock_move (moved_at, skipped) SELECT clock_timestamp(), skipped FROM moved
        ON CONFLICT DO NOTHING      -- moved by nothing
$$;

-- The wall time of a moment of the bus's clock, both in seconds since some moment. p_moves: the bus's times from which
-- the clock was ahead by p_skipped; p_skipped begins with what held before the first. p_until: the wall times of the
-- moves; whatever the clock passed over in a move happened then.
CREATE FUNCTION e2e.wall(p_at double precision, p_moves double precision[], p_skipped double precision[],
                         p_until double precision[]) RETURNS double precision
LANGUAGE sql IMMUTABLE
AS $$
    SELECT least(p_at - p_skipped[width_bucket(p_at, p_moves) + 1], p_until[width_bucket(p_at, p_moves) + 1])
$$;

CREATE FUNCTION e2e.notify_due() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_now timestamptz := commandbus.now();
BEGIN
    PERFORM pg_notify(commandbus.channel(d.domain), '')
       FROM (SELECT s.domain FROM commandbus.scheduled s WHERE s.due_at <= v_now
             UNION
             SELECT q.domain FROM commandbus.queue q WHERE q.worker_id IS NULL OR q.lease_until <= v_now) d;
END
$$;

-- Moves the clock to the next due moment if all is quiet, and wakes the domains concerned. Returns the seconds
-- skipped: 0 when there is something to do, nothing to wait for, or a transaction under way that goes by the clock.
-- Call it in a transaction of its own.
CREATE FUNCTION e2e.skip_clock() RETURNS double precision
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_seconds double precision;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'e2e.skip_clock() must see what others commit: call it in a READ COMMITTED transaction'
              USING ERRCODE = 'active_sql_transaction';
    END IF;
    IF NOT pg_try_advisory_xact_lock(7236182, 101) OR NOT e2e.is_quiet() THEN
        RETURN 0;
    END IF;
    BEGIN
        LOCK TABLE e2e.clock IN ACCESS EXCLUSIVE MODE NOWAIT;
    EXCEPTION WHEN lock_not_available THEN
        RETURN 0;
    END;
    IF NOT e2e.is_quiet() THEN      -- once more: until the lock was ours, things went on
        RETURN 0;
    END IF;
    SELECT extract(epoch FROM least((SELECT min(s.due_at) FROM commandbus.scheduled s),
                                    (SELECT min(q.lease_until) FROM commandbus.queue q)) - commandbus.now())
      INTO v_seconds;
    IF v_seconds IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM e2e.move_clock(v_seconds);
    PERFORM e2e.notify_due();
    RETURN v_seconds;
END
$$;

-- Moves the clock by hand, whoever is at work: leases run out as they would have in that time.
CREATE FUNCTION e2e.advance_clock(p_seconds double precision) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT p_seconds BETWEEN 0 AND 3e9 THEN
        RAISE EXCEPTION 'the clock can be advanced by 0 to 3e9 seconds, not by %', p_seconds
              USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM e2e.move_clock(p_seconds);
    PERFORM e2e.notify_due();
END
$$;

-- Chaos. One row says how this database's run rolls; without it nothing rolls but behavior of single commands.
CREATE TABLE e2e.chaos_run (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    seed       text    NOT NULL,                  -- an integer of any length
    skips_time boolean NOT NULL                   -- a rolled timeout fails at once instead of outlasting its lease
);

CREATE TABLE e2e.chaos_rule (
    name       text    PRIMARY KEY,
    names      text[]  NOT NULL,                  -- the steps and command types that it is for
    written    text    NOT NULL,                  -- as its author named it
    behavior   json    NOT NULL,
    matched_at timestamptz                        -- wall time; NULL while no command was claimed that it is for
);

CREATE TABLE e2e.test_batch (
    batch_id   uuid    PRIMARY KEY,
    number     integer NOT NULL                   -- its place among the test's batches; shards of one share it
);

CREATE TABLE e2e.test_command (
    command_id uuid        PRIMARY KEY,
    behavior   json        NOT NULL,
    payload    json        NOT NULL,
    created_at timestamptz NOT NULL
);
