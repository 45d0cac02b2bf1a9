-- The verbs of the bus, up to the handler. Each is one round trip and, called alone, one transaction.
--
--   enqueue            new commands: command, queue and SENT, one NOTIFY a domain
--   start_processes    new processes with their first commands
--   claim              lease the next due commands to a worker, RECEIVED in the same commit
--   renew, release     prolong a lease, give a claimed command back
--
-- What comes after the handler is in the next file.
--
-- Who may change a live command is decided by who holds its one row: settle deletes the queue row under the
-- epoch that it was claimed with, sweep deletes it when the lease ran out, an operator deletes the
-- troubleshooting row. Locks are always taken in that order: the live row, then process, then command.
--
-- Sets come in as one JSON parameter, read once by json_to_recordset, or, where it is to be quick, as columns: an array
-- for each, unnested side by side in one SELECT, which unlike FROM unnest(...) keeps no copy of each column.
--
-- PostgreSQL has no statistics for such sets, and a worker's session makes its plans while it is idle and the tables are
-- empty; they must hold when a backlog comes. So they are pinned to nested loops over keys, and to what does not depend
-- on the values (force_generic_plan), which spares the first calls of a session the planning. What a row is compared
-- with comes out of the set too (the worker), since a constant would tempt the planner to begin at the queue. And no
-- key is compared by a plain = of two tables: while a table holds next to nothing, a walk through its whole index, in
-- an order that a merge join could use, looks as good as a search in it. So rows are looked up by BETWEEN the key and
-- itself, or by LATERAL with OFFSET 0, and those that the statement has just locked by ctid.

-- New commands, as rows of JSON (those that a reply's router or an operator sends), or as columns: one array for each,
-- no element or no array for what a command has not. Their place in the batch p_batch counts from p_first_ordinal. A
-- NULL id is no command. A row of JSON without headers has those of the command `after` which it is sent.
CREATE FUNCTION commandbus.enqueue(
    p_commands json, p_command_ids uuid[] DEFAULT NULL, p_domains text[] DEFAULT NULL,
    p_command_types text[] DEFAULT NULL, p_payloads json[] DEFAULT NULL, p_max_attempts integer[] DEFAULT NULL,
    p_correlation_ids uuid[] DEFAULT NULL, p_reply_tos text[] DEFAULT NULL,
    p_batch uuid DEFAULT NULL, p_first_ordinal bigint DEFAULT NULL,
    p_process_ids uuid[] DEFAULT NULL, p_steps text[] DEFAULT NULL, p_headers json[] DEFAULT NULL)
RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off SET enable_memoize = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_now   timestamptz := commandbus.now();
    v_count integer;
BEGIN
    WITH new AS MATERIALIZED (
        SELECT n.command_id, n.domain, n.command_type, n.payload, n.max_attempts, n.correlation_id, n.reply_to,
               p_batch AS batch_id, p_first_ordinal + n.place - 1 AS ordinal,
               n.process_id, n.step, CASE WHEN n.process_id IS NOT NULL THEN 1 END AS visit, NULL::uuid AS compensates,
               n.headers
          FROM (SELECT unnest(p_command_ids) AS command_id, unnest(p_domains) AS domain,
                       unnest(p_command_types) AS command_type, unnest(p_payloads) AS payload,
                       unnest(p_max_attempts) AS max_attempts, unnest(p_correlation_ids) AS correlation_id,
                       unnest(p_reply_tos) AS reply_to, unnest(p_process_ids) AS process_id, unnest(p_steps) AS step,
                       unnest(p_headers) AS headers, generate_subscripts(p_command_ids, 1) AS place) n
         WHERE n.command_id IS NOT NULL
         UNION ALL
        SELECT n.command_id, n.domain, n.command_type, n.payload, n.max_attempts, n.correlation_id, n.reply_to,
               n.batch_id, n.ordinal, n.process_id, n.step, n.visit, n.compensates,
               coalesce(n.headers, (SELECT c.headers FROM commandbus.command c WHERE c.command_id = n.after))
          FROM json_to_recordset(p_commands) AS n (
            command_id uuid, domain text, command_type text, payload json, max_attempts integer,
            correlation_id uuid, reply_to text, batch_id uuid, ordinal bigint,
            process_id uuid, step text, visit integer, compensates uuid, headers json, after uuid)
    ), stored AS (
        INSERT INTO commandbus.command (command_id, domain, command_type, payload, max_attempts, correlation_id,
                                        reply_to, batch_id, ordinal, process_id, step, visit, compensates, headers,
                                        created_at, updated_at)
        SELECT command_id, domain, command_type, payload, max_attempts, coalesce(correlation_id, process_id),
               reply_to, batch_id, ordinal, process_id, step, visit, compensates, headers, v_now, v_now
          FROM new
    ), queued AS (
        INSERT INTO commandbus.queue (domain, command_id, command_type, max_attempts, queued_at)
        SELECT domain, command_id, command_type, max_attempts, v_now FROM new
    ), sent AS (
        INSERT INTO commandbus.event (command_id, type, ts)
        SELECT command_id, 'SENT', v_now FROM new
    ), woken AS (
        SELECT d.n, pg_notify(commandbus.channel(d.domain), '')
          FROM (SELECT domain, count(*) AS n FROM new GROUP BY domain) d
    )
    SELECT sum(n) INTO v_count FROM woken;
    RETURN coalesce(v_count, 0);
END
$$;

-- New processes of one type, with their first commands, in columns as above; a process without one has ended at once.
-- p_batch is the batch that they are members of, refused if it was cancelled.
CREATE FUNCTION commandbus.start_processes(
    p_domain text, p_process_type text, p_batch uuid, p_first_ordinal bigint,
    p_process_ids uuid[], p_statuses text[], p_steps text[], p_states json[], p_visits json[],
    p_error_codes text[], p_error_messages text[],
    p_command_ids uuid[], p_domains text[], p_command_types text[], p_payloads json[], p_max_attempts integer[],
    p_headers json[] DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off SET enable_memoize = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_now      timestamptz := commandbus.now();
    v_canceled timestamptz;
BEGIN
    IF p_batch IS NOT NULL THEN    -- the lock keeps a cancel waiting until these members can be counted
        SELECT b.canceled_at INTO v_canceled FROM commandbus.batch b WHERE b.batch_id = p_batch FOR KEY SHARE;
        IF v_canceled IS NOT NULL THEN
            RAISE EXCEPTION 'batch % was cancelled', p_batch USING ERRCODE = 'CB001';
        END IF;
    END IF;
    INSERT INTO commandbus.process (process_id, domain, process_type, status, current_step, state, command_id,
                                    ordinal, visits, error_code, error_message, batch_id,
                                    created_at, updated_at, completed_at)
    SELECT n.process_id, p_domain, p_process_type, n.status, n.step, n.state, n.command_id,
           p_first_ordinal + n.place - 1, n.visits, n.error_code, n.error_message, p_batch,
           v_now, v_now, CASE WHEN n.command_id IS NULL THEN v_now END
      FROM (SELECT unnest(p_process_ids) AS process_id, unnest(p_statuses) AS status, unnest(p_steps) AS step,
                   unnest(p_states) AS state, unnest(p_command_ids) AS command_id, unnest(p_visits) AS visits,
                   unnest(p_error_codes) AS error_code, unnest(p_error_messages) AS error_message,
                   generate_subscripts(p_process_ids, 1) AS place) n;
    PERFORM commandbus.enqueue(NULL, p_command_ids, p_domains, p_command_types, p_payloads, p_max_attempts, NULL, NULL,
                               NULL, NULL, p_process_ids, p_steps, p_headers);
END
$$;

-- Leases up to p_limit due commands with seq > p_after, in seq order: of the one type p_only, or of all but p_except.
-- A row of an expired lease is taken over, and counted as a lost lease, unless that was its last one (sweep parks those).
-- `waited` is how many seconds it stood in the queue.
CREATE FUNCTION commandbus.claim(
    p_domain text, p_worker integer, p_limit integer, p_lease interval, p_max_attempts integer, p_after bigint,
    p_only text DEFAULT NULL, p_except text[] DEFAULT NULL)
RETURNS TABLE (
    seq bigint, epoch integer, failures integer, past_failures integer, lost_leases integer, max_attempts integer,
    lease_until timestamptz, waited double precision, command_id uuid, command_type text, payload text,
    correlation_id uuid, reply_to text, batch_id uuid, ordinal bigint, created_at timestamptz,
    process_id uuid, step text, visit integer, compensates uuid,
    process_type text, process_status text, state text, process_batch_id uuid,
    process_ordinal bigint, visits text, undo text, undone_status text, canceling boolean, headers text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off SET enable_memoize = off SET enable_sort = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_now timestamptz := commandbus.now();
BEGIN
    WITH due AS (
        SELECT s.ctid FROM commandbus.scheduled s
         WHERE s.domain = p_domain AND s.due_at <= v_now
         ORDER BY s.due_at LIMIT 1000 FOR UPDATE SKIP LOCKED
    ), taken AS (
        DELETE FROM commandbus.scheduled s USING due WHERE s.ctid = due.ctid RETURNING s.*
    )
    INSERT INTO commandbus.queue (domain, command_id, command_type, epoch, failures, past_failures, lost_leases,
                                  max_attempts, queued_at)
    SELECT t.domain, t.command_id, t.command_type, t.epoch, t.failures, t.past_failures, t.lost_leases,
           t.max_attempts, v_now
      FROM taken t ORDER BY t.due_at, t.command_id;

    RETURN QUERY
    WITH due AS (
        SELECT q.ctid FROM commandbus.queue q
         WHERE q.domain = p_domain AND q.seq > p_after
           AND (q.worker_id IS NULL
                OR (q.lease_until <= v_now AND q.lost_leases + 1 < q.max_attempts))
           AND (p_only IS NULL OR q.command_type = p_only)
           AND (p_except IS NULL OR q.command_type <> ALL (p_except))
         ORDER BY q.seq LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), leased AS (
        UPDATE commandbus.queue q
           SET epoch = q.epoch + 1, lost_leases = q.lost_leases + (q.worker_id IS NOT NULL)::integer,
               max_attempts = coalesce(q.max_attempts, p_max_attempts),
               lease_until = greatest(v_now, q.queued_at) + p_lease, worker_id = p_worker
          FROM due WHERE q.ctid = due.ctid
        RETURNING q.*
    ), received AS (
        INSERT INTO commandbus.event (command_id, type, ts, epoch, worker_id, attempt, max_attempts, lease_until)
        SELECT l.command_id, 'RECEIVED', greatest(v_now, l.queued_at), l.epoch, l.worker_id, l.failures + 1,
               l.max_attempts, l.lease_until
          FROM leased l
    )
    SELECT l.seq, l.epoch, l.failures, l.past_failures, l.lost_leases, l.max_attempts,
           l.lease_until, date_part('epoch', greatest(v_now, l.queued_at) - l.queued_at),
           l.command_id, l.command_type, c.payload::text, c.correlation_id, c.reply_to,
           c.batch_id, c.ordinal, c.created_at, c.process_id, c.step, c.visit,
           c.compensates, p.process_type, p.status, p.state::text, p.batch_id,
           p.ordinal, p.visits::text, p.undo::text, p.undone_status, l.canceling, c.headers::text
      FROM leased l
     CROSS JOIN LATERAL (SELECT * FROM commandbus.command c WHERE c.command_id = l.command_id OFFSET 0) c
      LEFT JOIN LATERAL (SELECT * FROM commandbus.process p WHERE p.process_id = c.process_id OFFSET 0) p ON true
     ORDER BY l.seq;
END
$$;

-- Prolongs leases that are still the worker's; returns those. Audited when a handler asked for it.
CREATE FUNCTION commandbus.renew(
    p_worker integer, p_command_ids uuid[], p_epochs integer[], p_lease interval, p_audited boolean)
RETURNS TABLE (seq bigint, lease_until timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off SET enable_memoize = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_now timestamptz := commandbus.now();
BEGIN
    RETURN QUERY
    WITH renewed AS (
        UPDATE commandbus.queue q SET lease_until = v_now + p_lease
          FROM (SELECT p_worker AS worker_id, unnest(p_command_ids) AS command_id, unnest(p_epochs) AS epoch) s
         WHERE q.command_id BETWEEN s.command_id AND s.command_id AND q.epoch = s.epoch AND q.worker_id = s.worker_id
        RETURNING q.*
    ), audited AS (
        INSERT INTO commandbus.event (command_id, type, ts, epoch, worker_id, lease_until)
        SELECT r.command_id, 'LEASE_EXTENDED', v_now, r.epoch, r.worker_id, r.lease_until
          FROM renewed r WHERE p_audited
    )
    SELECT r.seq, r.lease_until FROM renewed r;
END
$$;

-- Gives claimed commands back unstarted: due at once for any worker, the attempt not counted.
CREATE FUNCTION commandbus.release(p_domain text, p_worker integer, p_command_ids uuid[], p_epochs integer[])
RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off SET enable_memoize = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_now      timestamptz := commandbus.now();
    v_released integer;
BEGIN
    WITH released AS (
        UPDATE commandbus.queue q SET lease_until = NULL, worker_id = NULL, queued_at = v_now  -- no claim is stamped before
          FROM (SELECT p_worker AS worker_id, unnest(p_command_ids) AS command_id, unnest(p_epochs) AS epoch) s
         WHERE q.command_id BETWEEN s.command_id AND s.command_id AND q.epoch = s.epoch AND q.worker_id = s.worker_id
        RETURNING q.command_id, q.epoch
    ), audited AS (
        INSERT INTO commandbus.event (command_id, type, ts, epoch, worker_id)
        SELECT r.command_id, 'RELEASED', v_now, r.epoch, p_worker FROM released r
    )
    SELECT count(*) INTO v_released FROM released;
    IF v_released > 0 THEN
        PERFORM pg_notify(commandbus.channel(p_domain), '');
    END IF;
    RETURN v_released;
END
$$;
