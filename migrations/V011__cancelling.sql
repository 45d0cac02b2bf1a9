-- Cancelling processes and the commands of batches.
--
-- Who cancels takes the live row first, as everybody does: what nobody has claimed is deleted there and then, and the
-- caller records it and advances its process in the same transaction. A command in flight is only marked: its
-- worker's settle then finds it `canceling`, and the worker decides knowing that. Bulk calls pass over rows that
-- somebody holds just now and never wait, so that they cannot wait in a circle with a settle; one row is waited for.
-- What was taken is recorded by a statement of its own, so that its time is later than whatever was done before.

-- Takes the live commands of processes that go forward (one that undoes its steps already is passed over). `place` says
-- where it was:
--   queue, scheduled, troubleshooting   its row is deleted, the caller decides
--   idle                                the process was kept without a command; its row is locked, the caller decides
--   claimed, answered                   a worker has it, or its reply waits for a manager: p_request is kept with the process
-- A process that is not returned had no live row that could be had: it ended, or its command has just moved on, or
-- it is to be cancelled already.
CREATE FUNCTION commandbus.cancel_processes(p_process_ids uuid[], p_request json, p_wait boolean)
RETURNS TABLE (
    place text, process_id uuid, process_type text, process_domain text, state text, batch_id uuid, ordinal bigint,
    visits text, current_step text, command_id uuid, epoch integer, failures integer, max_attempts integer)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off SET enable_memoize = off
AS $$
#variable_conflict use_column
DECLARE
    v_now timestamptz := commandbus.now();
BEGIN
    IF p_wait THEN
        PERFORM FROM commandbus.process p, LATERAL (
            SELECT FROM commandbus.queue q WHERE q.command_id = p.command_id FOR UPDATE) AS held
         WHERE p.process_id = ANY (p_process_ids);
        PERFORM FROM commandbus.process p, LATERAL (
            SELECT FROM commandbus.scheduled s WHERE s.command_id = p.command_id FOR UPDATE) AS held
         WHERE p.process_id = ANY (p_process_ids);
        PERFORM FROM commandbus.process p, LATERAL (
            SELECT FROM commandbus.troubleshooting t WHERE t.command_id = p.command_id FOR UPDATE) AS held
         WHERE p.process_id = ANY (p_process_ids);
        PERFORM FROM commandbus.process p, LATERAL (
            SELECT FROM commandbus.reply r WHERE r.command_id = p.command_id FOR UPDATE) AS held
         WHERE p.process_id = ANY (p_process_ids);
    END IF;

    RETURN QUERY
    WITH asked AS MATERIALIZED (
        SELECT p.process_id, p.command_id FROM commandbus.process p
         WHERE p.process_id = ANY (p_process_ids) AND p.undone_status IS NULL
           AND p.status NOT IN ('COMPLETED', 'COMPENSATED', 'FAILED', 'CANCELED')
    ), due AS MATERIALIZED (
        SELECT d.ctid, d.claimed
          FROM asked a, LATERAL (
            SELECT q.ctid, q.worker_id IS NOT NULL AS claimed FROM commandbus.queue q
             WHERE q.command_id = a.command_id AND NOT q.canceling FOR UPDATE SKIP LOCKED) d
    ), unclaimed AS (
        DELETE FROM commandbus.queue q WHERE q.ctid = ANY (ARRAY(SELECT d.ctid FROM due d WHERE NOT d.claimed))
        RETURNING q.command_id, q.epoch, q.failures, q.max_attempts
    ), marked AS (
        UPDATE commandbus.queue q SET canceling = true
         WHERE q.ctid = ANY (ARRAY(SELECT d.ctid FROM due d WHERE d.claimed))
        RETURNING q.command_id
    ), later AS (
        SELECT l.command_id
          FROM asked a, LATERAL (
            SELECT s.command_id FROM commandbus.scheduled s
             WHERE s.command_id = a.command_id FOR UPDATE SKIP LOCKED) l
    ), retries AS (
        DELETE FROM commandbus.scheduled s WHERE s.command_id = ANY (ARRAY(SELECT l.command_id FROM later l))
        RETURNING s.command_id, s.epoch, s.failures, s.max_attempts
    ), held AS (
        SELECT l.command_id
          FROM asked a, LATERAL (
            SELECT t.command_id FROM commandbus.troubleshooting t
             WHERE t.command_id = a.command_id FOR UPDATE SKIP LOCKED) l
    ), parked AS (
        DELETE FROM commandbus.troubleshooting t WHERE t.command_id = ANY (ARRAY(SELECT h.command_id FROM held h))
        RETURNING t.command_id, t.epoch, t.failures, t.max_attempts
    ), answers AS (
        SELECT l.command_id
          FROM asked a, LATERAL (
            SELECT r.command_id FROM commandbus.reply r
             WHERE r.command_id = a.command_id FOR UPDATE SKIP LOCKED) l
    ), requested AS (
        UPDATE commandbus.process p SET cancel_request = p_request, updated_at = greatest(v_now, p.updated_at)
          FROM (SELECT command_id, 'claimed' AS place FROM marked
                 UNION ALL SELECT command_id, 'answered' FROM answers) m
          JOIN asked a ON a.command_id = m.command_id
         WHERE p.process_id BETWEEN a.process_id AND a.process_id AND p.cancel_request IS NULL
        RETURNING m.place, p.process_id
    ), alone AS (
        SELECT p.process_id FROM asked a JOIN commandbus.process p ON p.process_id BETWEEN a.process_id AND a.process_id
         WHERE p.command_id IS NULL FOR UPDATE OF p SKIP LOCKED
    ), taken AS (
        SELECT 'queue' AS place, u.* FROM unclaimed u
         UNION ALL SELECT 'scheduled', r.* FROM retries r
         UNION ALL SELECT 'troubleshooting', h.* FROM parked h
    )
    SELECT t.place, p.process_id, p.process_type, p.domain, p.state::text, p.batch_id, p.ordinal, p.visits::text,
           p.current_step, t.command_id, t.epoch, t.failures, t.max_attempts
      FROM taken t
      JOIN commandbus.command c ON c.command_id BETWEEN t.command_id AND t.command_id
     CROSS JOIN LATERAL (SELECT * FROM commandbus.process p WHERE p.process_id = c.process_id OFFSET 0) p
     UNION ALL
    SELECT 'idle', p.process_id, p.process_type, p.domain, p.state::text, p.batch_id, p.ordinal, p.visits::text,
           p.current_step, NULL, NULL, NULL, NULL
      FROM alone l JOIN commandbus.process p ON p.process_id BETWEEN l.process_id AND l.process_id
     UNION ALL
    SELECT r.place, r.process_id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM requested r;
END
$$;

-- Takes those of the given commands that nobody has claimed: their rows are deleted, the caller records them.
CREATE FUNCTION commandbus.take_unclaimed(p_command_ids uuid[], p_wait boolean)
RETURNS TABLE (
    command_id uuid, epoch integer, failures integer, max_attempts integer, reply_to text, correlation_id uuid)
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_bitmapscan = off SET enable_memoize = off
AS $$
#variable_conflict use_column
BEGIN
    IF p_wait THEN
        PERFORM FROM commandbus.scheduled s WHERE s.command_id = ANY (p_command_ids) FOR UPDATE;
        PERFORM FROM commandbus.queue q WHERE q.command_id = ANY (p_command_ids) FOR UPDATE;
    END IF;

    RETURN QUERY
    WITH due AS MATERIALIZED (
        SELECT q.ctid FROM commandbus.queue q
         WHERE q.command_id = ANY (p_command_ids) AND q.worker_id IS NULL FOR UPDATE SKIP LOCKED
    ), unclaimed AS (
        DELETE FROM commandbus.queue q WHERE q.ctid = ANY (ARRAY(SELECT d.ctid FROM due d))
        RETURNING q.command_id, q.epoch, q.failures, q.max_attempts
    ), later AS MATERIALIZED (
        SELECT s.command_id FROM commandbus.scheduled s
         WHERE s.command_id = ANY (p_command_ids) FOR UPDATE SKIP LOCKED
    ), retries AS (
        DELETE FROM commandbus.scheduled s WHERE s.command_id = ANY (ARRAY(SELECT l.command_id FROM later l))
        RETURNING s.command_id, s.epoch, s.failures, s.max_attempts
    ), taken AS (
        SELECT u.* FROM unclaimed u UNION ALL SELECT r.* FROM retries r
    )
    SELECT t.*, c.reply_to, c.correlation_id
      FROM taken t JOIN commandbus.command c ON c.command_id BETWEEN t.command_id AND t.command_id;
END
$$;
