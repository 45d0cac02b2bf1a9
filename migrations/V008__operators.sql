-- What operators ask of many parked commands, and do with them, at once.
--
--   find_parked, count_parked   look for them by what parked_matching compares
--   show_parked                 what there is to know of each
--   take_parked                 take them out of the troubleshooting queue, to be requeued or recorded
--
-- To look for them, a plan is made for each call (force_custom_plan), so that a condition which is not asked for is not
-- there at all, and is pinned to an index that gives the order: without statistics the planner would sort all that
-- matches for each page.

-- Parked commands to which all applies that is not NULL, p_until included, beyond the place (p_after, p_after_id).
-- A batch is the command's own or its process's: a scalar, so that it is looked up for one row at a time.
CREATE FUNCTION commandbus.parked_matching(
    p_domain text, p_command_type text, p_error_code text, p_batch_id uuid, p_moved_after timestamptz,
    p_moved_before timestamptz, p_until timestamptz, p_after timestamptz, p_after_id uuid)
RETURNS SETOF commandbus.troubleshooting
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT t.* FROM commandbus.troubleshooting t
     WHERE (p_domain IS NULL OR t.domain = p_domain)
       AND (p_command_type IS NULL OR t.command_type = p_command_type)
       AND (p_error_code IS NULL OR t.error_code = p_error_code)
       AND (p_moved_after IS NULL OR t.moved_at >= p_moved_after)
       AND (p_moved_before IS NULL OR t.moved_at < p_moved_before)
       AND (p_until IS NULL OR t.moved_at <= p_until)
       AND (p_after IS NULL OR (t.moved_at, t.command_id) > (p_after, p_after_id))
       AND (p_batch_id IS NULL
            OR p_batch_id = (SELECT coalesce(c.batch_id, p.batch_id) FROM commandbus.command c
                               LEFT JOIN commandbus.process p ON p.process_id = c.process_id
                              WHERE c.command_id = t.command_id))
$$;

-- The next ones, oldest first.
CREATE FUNCTION commandbus.find_parked(
    p_domain text, p_command_type text, p_error_code text, p_batch_id uuid, p_moved_after timestamptz,
    p_moved_before timestamptz, p_until timestamptz, p_after timestamptz, p_after_id uuid, p_limit integer)
RETURNS TABLE (moved_at timestamptz, command_id uuid)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_sort = off SET enable_bitmapscan = off
AS $$
BEGIN
    RETURN QUERY
    SELECT t.moved_at, t.command_id
      FROM commandbus.parked_matching(p_domain, p_command_type, p_error_code, p_batch_id, p_moved_after,
                                      p_moved_before, p_until, p_after, p_after_id) t
     ORDER BY t.moved_at, t.command_id LIMIT p_limit;
END
$$;

CREATE FUNCTION commandbus.count_parked(
    p_domain text, p_command_type text, p_error_code text, p_batch_id uuid, p_moved_after timestamptz,
    p_moved_before timestamptz)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off
AS $$
BEGIN
    RETURN (SELECT count(*) FROM commandbus.parked_matching(p_domain, p_command_type, p_error_code, p_batch_id,
                                                            p_moved_after, p_moved_before, NULL, NULL, NULL));
END
$$;

-- The oldest first. `attempts` are those of this life, `total_attempts` those of all.
CREATE FUNCTION commandbus.show_parked(p_command_ids uuid[])
RETURNS TABLE (
    command_id uuid, domain text, command_type text, payload text, error_code text, error_message text,
    attempts integer, total_attempts integer, max_attempts integer, lost_leases integer, correlation_id uuid,
    process_id uuid, step text, batch_id uuid, created_at timestamptz, moved_at timestamptz)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off SET enable_memoize = off
AS $$
BEGIN
    RETURN QUERY
    SELECT t.command_id, t.domain, t.command_type, c.payload::text, t.error_code, t.error_message,
           t.failures, t.failures + t.past_failures, t.max_attempts, t.lost_leases, c.correlation_id,
           c.process_id, c.step, coalesce(c.batch_id, p.batch_id), c.created_at, t.moved_at
      FROM (SELECT * FROM commandbus.troubleshooting t
             WHERE t.command_id = ANY (p_command_ids) OFFSET 0) t  -- found first: the order tempts to walk an index on moved_at
      JOIN commandbus.command c ON c.command_id BETWEEN t.command_id AND t.command_id
      LEFT JOIN commandbus.process p ON p.process_id BETWEEN c.process_id AND c.process_id
     ORDER BY t.moved_at, t.command_id;
END
$$;

-- Takes parked commands out of the troubleshooting queue: the caller decides about them, and about their processes, in
-- its transaction. They are locked in the order of their ids, so that two operators never wait for each other in a
-- circle; the later one finds them gone. What was parked after p_until (again, perhaps) stays.
CREATE FUNCTION commandbus.take_parked(p_command_ids uuid[], p_until timestamptz)
RETURNS TABLE (
    command_id uuid, domain text, command_type text, epoch integer, failures integer, past_failures integer,
    lost_leases integer, max_attempts integer, correlation_id uuid, reply_to text, process_id uuid, step text,
    compensates uuid, process_type text, process_domain text, state text, process_batch_id uuid,
    process_ordinal bigint, visits text, undo text, undone_status text)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off SET enable_memoize = off
AS $$
BEGIN
    RETURN QUERY
    WITH held AS (
        SELECT t.command_id FROM commandbus.troubleshooting t
         WHERE t.command_id = ANY (p_command_ids) AND (t.moved_at <= p_until) IS NOT FALSE  -- so written, no index on moved_at tempts
         ORDER BY t.command_id FOR UPDATE
    ), taken AS (
        DELETE FROM commandbus.troubleshooting t USING held h
         WHERE t.command_id BETWEEN h.command_id AND h.command_id RETURNING t.*
    )
    SELECT t.command_id, t.domain, t.command_type, t.epoch, t.failures, t.past_failures, t.lost_leases,
           t.max_attempts, c.correlation_id, c.reply_to, c.process_id, c.step,
           c.compensates, p.process_type, p.domain, p.state::text, p.batch_id,
           p.ordinal, p.visits::text, p.undo::text, p.undone_status
      FROM taken t
      JOIN commandbus.command c ON c.command_id BETWEEN t.command_id AND t.command_id
      LEFT JOIN commandbus.process p ON p.process_id BETWEEN c.process_id AND c.process_id;
END
$$;
