-- What consumers of replies do, the routers of processes among them.

-- Leases up to p_limit replies of an address to a consumer, oldest first.
CREATE FUNCTION commandbus.receive_replies(p_reply_to text, p_limit integer, p_lease interval)
RETURNS TABLE (
    reply_id bigint, epoch integer, lease_until timestamptz, created_at timestamptz, command_id uuid,
    correlation_id uuid, outcome text, result text, error_code text, error_message text, headers text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off SET enable_memoize = off SET enable_sort = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    v_now timestamptz := commandbus.now();
BEGIN
    RETURN QUERY
    WITH waiting AS (
        SELECT r.ctid FROM commandbus.reply r
         WHERE r.reply_to = ANY (ARRAY[p_reply_to]) AND (r.lease_until IS NULL OR r.lease_until <= v_now)
         ORDER BY r.reply_to, r.reply_id LIMIT p_limit FOR UPDATE SKIP LOCKED
    ), leased AS (
        UPDATE commandbus.reply r SET epoch = r.epoch + 1, lease_until = v_now + p_lease
          FROM waiting w WHERE r.ctid = w.ctid
        RETURNING r.*
    )
    SELECT l.reply_id, l.epoch, l.lease_until, l.created_at, l.command_id,
           l.correlation_id, l.outcome, l.result::text, l.error_code, l.error_message, l.headers::text
      FROM leased l ORDER BY l.reply_id;
END
$$;

-- Deletes received replies; returns those that were still the consumer's. The others another one has received since.
CREATE FUNCTION commandbus.acknowledge_replies(p_reply_ids bigint[], p_epochs integer[]) RETURNS SETOF bigint
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off SET enable_memoize = off SET plan_cache_mode = force_generic_plan
AS $$
    DELETE FROM commandbus.reply r USING unnest(p_reply_ids, p_epochs) AS a (reply_id, epoch)
     WHERE r.reply_id BETWEEN a.reply_id AND a.reply_id AND r.epoch = a.epoch
    RETURNING r.reply_id
$$;

-- Gives received replies back, for any consumer at once; returns those that were still the consumer's.
CREATE FUNCTION commandbus.release_replies(p_reply_to text, p_reply_ids bigint[], p_epochs integer[])
RETURNS SETOF bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off SET enable_memoize = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    UPDATE commandbus.reply r SET lease_until = NULL
      FROM unnest(p_reply_ids, p_epochs) AS a (reply_id, epoch)
     WHERE r.reply_id BETWEEN a.reply_id AND a.reply_id AND r.epoch = a.epoch
    RETURNING r.reply_id;
    IF FOUND THEN
        PERFORM pg_notify(commandbus.channel('reply_to:' || p_reply_to), 'reply');
    END IF;
END
$$;

-- The next replies at each of these addresses of process managers, oldest first, p_limit of each at most, locked until
-- they are applied, with their processes and commands. Left where they are: those of processes that have been at steps
-- which their manager here does not declare (p_declared: `<address> <step>`, for the addresses in p_declaring), as far
-- as these matter; they are another version's.
CREATE FUNCTION commandbus.take_replies(
    p_addresses text[], p_declaring text[], p_declared text[], p_limit integer)
RETURNS TABLE (
    reply_id bigint, command_id uuid, outcome text, result text, error_code text, error_message text,
    process_id uuid, process_type text, status text, state text, is_awaited boolean, batch_id uuid,
    ordinal bigint, visits text, undo text, undone_status text, step text, compensates uuid, domain text,
    headers text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off SET enable_memoize = off SET enable_sort = off SET plan_cache_mode = force_generic_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT t.*
      FROM unnest(p_addresses) AS a (address)
     CROSS JOIN LATERAL (
            SELECT r.reply_id, r.command_id, r.outcome, r.result::text, r.error_code, r.error_message,
                   p.process_id, p.process_type, p.status, p.state::text, p.command_id = r.command_id, p.batch_id,
                   p.ordinal, p.visits::text, p.undo::text, p.undone_status, c.step, c.compensates, p.domain,
                   r.headers::text
              FROM commandbus.reply r
              JOIN commandbus.process p ON p.process_id BETWEEN r.process_id AND r.process_id
              JOIN commandbus.command c ON c.command_id BETWEEN r.command_id AND r.command_id
             WHERE r.reply_to = ANY (ARRAY[a.address])
               AND NOT EXISTS (
                    SELECT FROM (SELECT c.step
                                  UNION ALL SELECT u ->> 'step' FROM json_array_elements(coalesce(p.undo, '[]')) u
                                  UNION ALL SELECT v FROM json_object_keys(coalesce(p.visits, '{}')) v
                                             WHERE c.compensates IS NULL
                                               AND (r.outcome <> 'SUCCESS' OR p.cancel_request IS NOT NULL)) s (step)
                     WHERE r.reply_to = ANY (p_declaring) AND NOT r.reply_to || ' ' || s.step = ANY (p_declared))
             ORDER BY r.reply_to, r.reply_id LIMIT p_limit FOR UPDATE OF r, p SKIP LOCKED) t;
END
$$;
