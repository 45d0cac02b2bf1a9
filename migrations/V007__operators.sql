-- What operators do with many parked commands at once.

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
AS $$
BEGIN
    RETURN QUERY
    WITH held AS (
        SELECT t.command_id FROM commandbus.troubleshooting t
         WHERE t.command_id = ANY (p_command_ids) AND (p_until IS NULL OR t.moved_at <= p_until)
         ORDER BY t.command_id FOR UPDATE
    ), taken AS (
        DELETE FROM commandbus.troubleshooting t USING held h WHERE t.command_id = h.command_id RETURNING t.*
    )
    SELECT t.command_id, t.domain, t.command_type, t.epoch, t.failures, t.past_failures, t.lost_leases,
           t.max_attempts, c.correlation_id, c.reply_to, c.process_id, c.step,
           c.compensates, p.process_type, p.domain, p.state::text, p.batch_id,
           p.ordinal, p.visits::text, p.undo::text, p.undone_status
      FROM taken t
      JOIN commandbus.command c ON c.command_id = t.command_id
      LEFT JOIN commandbus.process p ON p.process_id = c.process_id;
END
$$;
