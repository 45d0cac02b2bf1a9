-- The verbs of the bus, from the handler on; the file before tells who may change what, and how sets come in.
--
--   settle             record what became of claimed commands, fenced, and advance their processes
--   lock_claims        hold claims until the transaction ends
--   sweep              park commands that lost their last lease
--   record_outcomes, advance_processes, requeue   the parts that settle, sweep, replies and operators share

-- What became of commands whose live row the caller has just deleted: the terminal or parked state, a retry or a
-- delayed release in scheduled, the reply row, one event each. `delay` is in seconds.
CREATE FUNCTION commandbus.record_outcomes(p_worker integer, p_outcomes json) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off SET enable_memoize = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_now   timestamptz := commandbus.now();
    v_woken integer;
BEGIN
    WITH o AS MATERIALIZED (
        SELECT * FROM json_to_recordset(p_outcomes) AS x (
            command_id uuid, domain text, command_type text, event text, status text, result json,
            error_code text, error_message text, attempts integer, epoch integer, failures integer,
            past_failures integer, lost_leases integer, max_attempts integer, delay double precision,
            details json, process_id uuid, reply_to text, reply_outcome text, correlation_id uuid, headers json)
    ), waiting AS (
        UPDATE commandbus.process p      -- parked, or its reply waits for the manager since an operator decided
           SET status = CASE WHEN o.event = 'MOVED_TO_TSQ' THEN 'WAITING_FOR_TSQ'
                             WHEN p.undone_status IS NULL THEN 'WAITING_FOR_REPLY' ELSE 'COMPENSATING' END,
               updated_at = v_now
          FROM o
         WHERE (o.event = 'MOVED_TO_TSQ' OR (o.event LIKE 'OPERATOR%' AND o.reply_outcome IS NOT NULL))
           AND p.process_id BETWEEN o.process_id AND o.process_id
    ), settled AS (
        UPDATE commandbus.command c
           SET status = o.status, result = o.result, error_code = o.error_code, error_message = o.error_message,
               attempts = o.attempts, max_attempts = coalesce(o.max_attempts, c.max_attempts), updated_at = v_now,
               completed_at = CASE WHEN o.status <> 'IN_TROUBLESHOOTING_QUEUE' THEN v_now END
          FROM o WHERE o.status IS NOT NULL AND c.command_id BETWEEN o.command_id AND o.command_id
    ), uncompleted AS (
        INSERT INTO commandbus.uncompleted (domain, command_type, status, created_at, command_id)
        SELECT c.domain, c.command_type, o.status, c.created_at, c.command_id
          FROM o JOIN commandbus.command c ON c.command_id BETWEEN o.command_id AND o.command_id
         WHERE o.status IN ('FAILED', 'CANCELED')
    ), delayed AS (
        INSERT INTO commandbus.scheduled (command_id, domain, command_type, epoch, failures, past_failures,
                                          lost_leases, max_attempts, due_at, error_code, error_message)
        SELECT command_id, domain, command_type, epoch, failures, past_failures,
               lost_leases, max_attempts, v_now + delay * interval '1 second', error_code, error_message
          FROM o WHERE delay IS NOT NULL
    ), parked AS (
        INSERT INTO commandbus.troubleshooting (command_id, domain, command_type, epoch, failures, past_failures,
                                                lost_leases, max_attempts, moved_at, error_code, error_message)
        SELECT command_id, domain, command_type, epoch, failures, past_failures,
               lost_leases, max_attempts, v_now, error_code, error_message
          FROM o WHERE event = 'MOVED_TO_TSQ'
    ), replied AS (
        INSERT INTO commandbus.reply (reply_to, command_id, correlation_id, process_id, outcome, result,
                                      error_code, error_message, headers, created_at)
        SELECT reply_to, command_id, correlation_id, process_id, reply_outcome, result,
               error_code, error_message,
               CASE WHEN p_worker IS NOT NULL THEN headers     -- without a handler, those that it was sent with
                    ELSE (SELECT c.headers FROM commandbus.command c WHERE c.command_id = o.command_id) END, v_now
          FROM o WHERE reply_outcome IS NOT NULL
    ), audited AS (
        INSERT INTO commandbus.event (command_id, type, ts, epoch, worker_id, attempt, details)
        SELECT command_id, event, v_now, epoch, p_worker, attempts, details FROM o
    )
    SELECT count(*) INTO v_woken      -- the routers of other applications' processes, and the consumers of replies
      FROM (SELECT p.domain FROM o JOIN commandbus.process p ON p.process_id BETWEEN o.process_id AND o.process_id
             WHERE o.reply_outcome IS NOT NULL
             UNION
            SELECT 'reply_to:' || o.reply_to FROM o
             WHERE o.reply_outcome IS NOT NULL AND o.process_id IS NULL) AS w (waits),
           pg_notify(commandbus.channel(w.waits), 'reply');
END
$$;

CREATE FUNCTION commandbus.advance_processes(p_advances json) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off SET enable_memoize = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_now timestamptz := commandbus.now();
BEGIN
    UPDATE commandbus.process p
       SET status = a.status, current_step = a.current_step, state = a.state, command_id = a.command_id,
           visits = a.visits, undo = a.undo, undone_status = a.undone_status,
           error_code = coalesce(a.error_code, p.error_code),
           error_message = coalesce(a.error_message, p.error_message),
           updated_at = v_now, completed_at = CASE WHEN a.ended THEN v_now END
      FROM json_to_recordset(p_advances) AS a (
            process_id uuid, status text, current_step text, state json, command_id uuid, visits json,
            undo json, undone_status text, error_code text, error_message text, ended boolean)
     WHERE p.process_id BETWEEN a.process_id AND a.process_id;
END
$$;

-- Settles claimed commands: whatever is still the worker's under that epoch is recorded, its process advanced and
-- the next command sent; the rest changes nothing but its audit trail: `lost`.
-- Commands whose process was cancelled since they were claimed are left alone too, unless p_canceling names them: the
-- worker has to decide about them again, knowing that (`canceling`).
-- A settle whose answer was lost on the way may be sent again: what it settled then is not lost.
-- It takes columns, one array for each. Those commands come first after which another is sent (p_next_ids and the
-- following), then the others that advance their process (p_process_ids and the following); no array for what none has.
-- A command with an event is one of p_outcomes too, which record_outcomes takes; one without is COMPLETED, and nobody
-- waits for its reply.
CREATE FUNCTION commandbus.settle(
    p_domain text, p_worker integer, p_command_ids uuid[], p_epochs integer[], p_canceling uuid[] DEFAULT '{}',
    p_outcomes json DEFAULT NULL, p_events text[] DEFAULT NULL, p_results json[] DEFAULT NULL,
    p_details json[] DEFAULT NULL,
    p_process_ids uuid[] DEFAULT NULL, p_statuses text[] DEFAULT NULL, p_steps text[] DEFAULT NULL,
    p_states json[] DEFAULT NULL, p_visits json[] DEFAULT NULL, p_undos json[] DEFAULT NULL,
    p_undone_statuses text[] DEFAULT NULL, p_error_codes text[] DEFAULT NULL, p_error_messages text[] DEFAULT NULL,
    p_next_ids uuid[] DEFAULT NULL, p_domains text[] DEFAULT NULL, p_command_types text[] DEFAULT NULL,
    p_payloads json[] DEFAULT NULL, p_times integer[] DEFAULT NULL, p_max_attempts integer[] DEFAULT NULL,
    p_compensates uuid[] DEFAULT NULL, p_headers json[] DEFAULT NULL,
    OUT lost uuid[], OUT canceling uuid[])
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off SET enable_memoize = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_now   timestamptz := commandbus.now();
    v_ours   uuid[];
    v_epochs integer[];
    v_woken  integer;
BEGIN
    lost := '{}';
    canceling := '{}';
    WITH s AS MATERIALIZED (
        SELECT unnest(p_command_ids) AS command_id, unnest(p_epochs) AS epoch, p_worker AS worker_id,
               unnest(p_events) AS event, unnest(p_results) AS result, unnest(p_details) AS details,
               unnest(p_process_ids) AS process_id, unnest(p_statuses) AS status, unnest(p_steps) AS step,
               unnest(p_states) AS state, unnest(p_visits) AS visits, unnest(p_undos) AS undo,
               unnest(p_undone_statuses) AS undone_status, unnest(p_error_codes) AS error_code,
               unnest(p_error_messages) AS error_message,
               unnest(p_next_ids) AS next_id, unnest(p_domains) AS domain, unnest(p_command_types) AS command_type,
               unnest(p_payloads) AS payload, unnest(p_times) AS visit, unnest(p_max_attempts) AS max_attempts,
               unnest(p_compensates) AS compensates, unnest(p_headers) AS headers
    ), ours AS (
        DELETE FROM commandbus.queue q USING s
         WHERE q.command_id BETWEEN s.command_id AND s.command_id AND q.epoch = s.epoch AND q.worker_id = s.worker_id
           AND (NOT q.canceling OR q.command_id = ANY (p_canceling))
        RETURNING q.failures + 1 AS attempts, q.max_attempts AS most_attempts, s.*
    ), completed AS (
        UPDATE commandbus.command c
           SET status = 'COMPLETED', result = o.result, error_code = NULL, error_message = NULL, attempts = o.attempts,
               max_attempts = coalesce(o.most_attempts, c.max_attempts), updated_at = v_now, completed_at = v_now
          FROM ours o WHERE o.event IS NULL AND c.command_id BETWEEN o.command_id AND o.command_id
    ), advanced AS (
        UPDATE commandbus.process p
           SET status = o.status, current_step = o.step, state = o.state, command_id = o.next_id,
               visits = o.visits, undo = o.undo, undone_status = o.undone_status,
               error_code = coalesce(o.error_code, p.error_code),
               error_message = coalesce(o.error_message, p.error_message),
               updated_at = v_now, completed_at = CASE WHEN o.next_id IS NULL THEN v_now END
          FROM ours o WHERE p.process_id BETWEEN o.process_id AND o.process_id
    ), sent AS (
        INSERT INTO commandbus.command (command_id, domain, command_type, payload, max_attempts, correlation_id,
                                        process_id, step, visit, compensates, headers, created_at, updated_at)
        SELECT next_id, domain, command_type, payload, max_attempts, process_id,
               process_id, step, visit, compensates, headers, v_now, v_now
          FROM ours WHERE next_id IS NOT NULL
    ), queued AS (
        INSERT INTO commandbus.queue (domain, command_id, command_type, max_attempts, queued_at)
        SELECT domain, next_id, command_type, max_attempts, v_now FROM ours WHERE next_id IS NOT NULL
    ), audited AS (
        INSERT INTO commandbus.event (command_id, type, ts, epoch, worker_id, attempt, details)
        SELECT command_id, 'COMPLETED', v_now, epoch, p_worker, attempts, details FROM ours WHERE event IS NULL
         UNION ALL
        SELECT next_id, 'SENT', v_now, NULL, NULL, NULL, NULL FROM ours WHERE next_id IS NOT NULL
    ), woken AS (
        SELECT pg_notify(commandbus.channel(d.domain), '')
          FROM (SELECT DISTINCT o.domain FROM ours o WHERE o.next_id IS NOT NULL) d
    )
    SELECT coalesce(array_agg(o.command_id), '{}'), coalesce(array_agg(o.epoch), '{}'), (SELECT count(*) FROM woken)
      INTO v_ours, v_epochs, v_woken FROM ours o;

    IF cardinality(v_ours) < cardinality(p_command_ids) THEN
        WITH missing AS MATERIALIZED (
            SELECT x.command_id, x.epoch, coalesce(x.event, 'COMPLETED') AS event, p_worker AS worker_id
              FROM unnest(p_command_ids, p_epochs, p_events) AS x (command_id, epoch, event)
             WHERE (x.command_id, x.epoch) NOT IN (SELECT * FROM unnest(v_ours, v_epochs))
        ), waits AS MATERIALIZED (
            SELECT m.command_id
              FROM missing m
              JOIN commandbus.queue q ON q.command_id BETWEEN m.command_id AND m.command_id
             WHERE q.epoch = m.epoch AND q.worker_id = m.worker_id AND q.canceling
        ), late AS (
            SELECT m.* FROM missing m
             WHERE NOT EXISTS (SELECT FROM waits w WHERE w.command_id = m.command_id)
               AND NOT EXISTS (
                    SELECT FROM commandbus.event e
                     WHERE e.command_id BETWEEN m.command_id AND m.command_id AND e.epoch = m.epoch
                       AND e.worker_id = m.worker_id AND e.type = m.event)
        ), dropped AS (
            INSERT INTO commandbus.event (command_id, type, ts, epoch, worker_id, details)
            SELECT l.command_id, 'LATE_OUTCOME_DROPPED', v_now, l.epoch, p_worker,
                   json_build_object('outcome', l.event)
              FROM late l
              JOIN commandbus.command c      -- a pruned one has no trail any more
                ON c.command_id BETWEEN l.command_id AND l.command_id
               FOR KEY SHARE OF c
        )
        SELECT (SELECT coalesce(array_agg(w.command_id), '{}') FROM waits w),
               (SELECT coalesce(array_agg(l.command_id), '{}') FROM late l)
          INTO canceling, lost;
        SELECT json_agg(x) INTO p_outcomes FROM json_array_elements(p_outcomes) x
         WHERE ((x ->> 'command_id')::uuid, (x ->> 'epoch')::integer) IN (SELECT * FROM unnest(v_ours, v_epochs));
    END IF;

    IF p_outcomes IS NOT NULL THEN
        PERFORM commandbus.record_outcomes(p_worker, p_outcomes);
    END IF;
END
$$;

-- Which of the given claims are still the worker's, and whether their processes were cancelled meanwhile; locks them
-- until the transaction ends.
CREATE FUNCTION commandbus.lock_claims(p_worker integer, p_command_ids uuid[], p_epochs integer[])
RETURNS TABLE (seq bigint, canceling boolean)
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off SET enable_memoize = off SET plan_cache_mode = force_generic_plan
AS $$
    SELECT q.seq, q.canceling
      FROM (SELECT p_worker AS worker_id, unnest(p_command_ids) AS command_id, unnest(p_epochs) AS epoch) s
      JOIN commandbus.queue q ON q.command_id BETWEEN s.command_id AND s.command_id
     WHERE q.epoch = s.epoch AND q.worker_id = s.worker_id
       FOR UPDATE OF q
$$;

-- Parks commands whose lease ran out and was their last one. Looks at seq <= p_upto (a worker passes the highest
-- that it has claimed: beyond lies only backlog), at all when NULL.
CREATE FUNCTION commandbus.sweep(p_domain text, p_upto bigint) RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off SET enable_memoize = off SET enable_sort = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_now      timestamptz := commandbus.now();
    v_outcomes json;
BEGIN
    WITH lost AS (
        SELECT q.ctid FROM commandbus.queue q
         WHERE q.domain = p_domain AND q.seq <= coalesce(p_upto, 9223372036854775807)
           AND q.worker_id IS NOT NULL AND q.lease_until <= v_now AND q.lost_leases + 1 >= q.max_attempts
         ORDER BY q.seq FOR UPDATE SKIP LOCKED
    ), swept AS (
        DELETE FROM commandbus.queue q USING lost WHERE q.ctid = lost.ctid RETURNING q.*
    )
    SELECT json_agg(json_build_object(
               'command_id', s.command_id, 'domain', s.domain, 'command_type', s.command_type,
               'event', 'MOVED_TO_TSQ', 'status', 'IN_TROUBLESHOOTING_QUEUE', 'error_code', 'LEASE_LOST',
               'error_message', m.text, 'attempts', s.failures, 'epoch', s.epoch, 'failures', s.failures,
               'past_failures', s.past_failures, 'lost_leases', s.lost_leases + 1, 'max_attempts', s.max_attempts,
               'process_id', c.process_id,
               'details', json_build_object('code', 'LEASE_LOST', 'message', m.text, 'worker_id', s.worker_id)))
      INTO v_outcomes
      FROM swept s
     CROSS JOIN LATERAL (SELECT * FROM commandbus.command c WHERE c.command_id = s.command_id OFFSET 0) c
     CROSS JOIN LATERAL (SELECT format('its workers lost %s leases of %s', s.lost_leases + 1, s.max_attempts)) m (text);
    IF v_outcomes IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM commandbus.record_outcomes(NULL, v_outcomes);
    RETURN json_array_length(v_outcomes);
END
$$;

-- Puts parked commands, whose troubleshooting rows the caller has just deleted, back into the queue as a new life.
CREATE FUNCTION commandbus.requeue(p_commands json) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off SET enable_memoize = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_now     timestamptz := commandbus.now();
    v_domains integer;
BEGIN
    WITH r AS MATERIALIZED (
        SELECT * FROM json_to_recordset(p_commands) AS x (
            command_id uuid, domain text, command_type text, epoch integer, past_failures integer,
            max_attempts integer, details json)
    ), again AS (
        UPDATE commandbus.command c
           SET status = 'PENDING', attempts = 0, error_code = NULL, error_message = NULL, updated_at = v_now
          FROM r WHERE c.command_id BETWEEN r.command_id AND r.command_id
        RETURNING r.*, c.process_id, c.compensates
    ), back AS (
        UPDATE commandbus.process p
           SET status = CASE WHEN a.compensates IS NULL THEN 'WAITING_FOR_REPLY' ELSE 'COMPENSATING' END,
               updated_at = v_now
          FROM again a WHERE p.process_id BETWEEN a.process_id AND a.process_id
    ), queued AS (
        INSERT INTO commandbus.queue (domain, command_id, command_type, epoch, past_failures, max_attempts, queued_at,
                                      canceling)
        SELECT a.domain, a.command_id, a.command_type, a.epoch, a.past_failures, a.max_attempts, v_now,
               a.compensates IS NULL AND p.cancel_request IS NOT NULL    -- it ends first, then all is undone
          FROM again a LEFT JOIN commandbus.process p ON p.process_id BETWEEN a.process_id AND a.process_id
    ), audited AS (
        INSERT INTO commandbus.event (command_id, type, ts, epoch, details)
        SELECT command_id, 'OPERATOR_RETRY', v_now, epoch, details FROM r
    )
    SELECT count(*) INTO v_domains
      FROM (SELECT DISTINCT domain FROM r) d, pg_notify(commandbus.channel(d.domain), '');
END
$$;
