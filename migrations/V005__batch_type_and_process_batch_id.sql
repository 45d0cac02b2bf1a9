-- Batches of processes beside batches of commands.

ALTER TABLE commandbus.batch ADD COLUMN batch_type TEXT NOT NULL DEFAULT 'COMMAND';
ALTER TABLE commandbus.batch ADD CONSTRAINT batch_type_known CHECK (batch_type IN ('COMMAND', 'PROCESS'));

ALTER TABLE commandbus.process ADD COLUMN batch_id UUID;

CREATE INDEX ix_process_batch_id ON commandbus.process (batch_id) WHERE batch_id IS NOT NULL;
CREATE INDEX ix_process_batch_status ON commandbus.process (batch_id, status) WHERE batch_id IS NOT NULL;

-- Recounts one batch and stores the counts; they are computed on read, so that no settle updates a shared row.
-- COMMAND batches count commands by status. PROCESS batches count processes: COMPLETED and COMPENSATED as
-- completed, FAILED and CANCELED as canceled; the others are in progress, and in_troubleshooting_count tells
-- how many of those wait for an operator. A batch that ended is not counted again.
CREATE FUNCTION commandbus.sp_refresh_batch_stats(p_domain text, p_batch_id uuid) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_batch     commandbus.batch%ROWTYPE;
    v_completed integer;
    v_failed    integer := 0;
    v_canceled  integer;
    v_parked    integer;
    v_members   integer;
    v_moved     boolean;
    v_status    text;
    v_ended     timestamptz;
    v_started   timestamptz;
BEGIN
    SELECT * INTO v_batch FROM commandbus.batch b WHERE b.batch_id = p_batch_id AND b.domain = p_domain;
    IF NOT FOUND OR v_batch.status IN ('COMPLETED', 'COMPLETED_WITH_FAILURES') THEN
        RETURN;
    END IF;

    IF v_batch.batch_type = 'PROCESS' THEN
        SELECT coalesce(sum(n) FILTER (WHERE s.status IN ('COMPLETED', 'COMPENSATED')), 0),
               coalesce(sum(n) FILTER (WHERE s.status IN ('FAILED', 'CANCELED')), 0),
               coalesce(sum(n) FILTER (WHERE s.status = 'WAITING_FOR_TSQ'), 0),
               coalesce(sum(n), 0)
          INTO v_completed, v_canceled, v_parked, v_members
          FROM (SELECT p.status, count(*) AS n FROM commandbus.process p
                 WHERE p.batch_id = p_batch_id GROUP BY p.status) s;
        v_moved := v_members > 0;
        IF v_moved AND v_batch.started_at IS NULL THEN
            SELECT min(p.created_at) INTO v_started FROM commandbus.process p WHERE p.batch_id = p_batch_id;
        END IF;
    ELSE
        SELECT count(*) FILTER (WHERE c.status = 'COMPLETED'), count(*) FILTER (WHERE c.status = 'FAILED'),
               count(*) FILTER (WHERE c.status = 'CANCELED'),
               count(*) FILTER (WHERE c.status = 'IN_TROUBLESHOOTING_QUEUE')
          INTO v_completed, v_failed, v_canceled, v_parked
          FROM commandbus.command c WHERE c.batch_id = p_batch_id;
        v_moved := v_completed + v_failed + v_canceled + v_parked > 0 OR v_batch.started_at IS NOT NULL;
        IF v_batch.started_at IS NULL THEN
            SELECT min(e.ts) INTO v_started
              FROM commandbus.command c JOIN commandbus.event e ON e.command_id = c.command_id
             WHERE c.batch_id = p_batch_id AND e.type <> 'SENT';
            v_moved := v_moved OR v_started IS NOT NULL;
        END IF;
    END IF;

    v_status := CASE
        WHEN v_completed + v_failed + v_canceled >= v_batch.total_count AND v_failed + v_canceled > 0
            THEN 'COMPLETED_WITH_FAILURES'
        WHEN v_completed + v_failed + v_canceled >= v_batch.total_count THEN 'COMPLETED'
        WHEN v_moved THEN 'IN_PROGRESS'
        ELSE 'PENDING' END;
    IF v_status LIKE 'COMPLETED%' THEN
        IF v_batch.batch_type = 'PROCESS' THEN
            SELECT max(p.completed_at) INTO v_ended FROM commandbus.process p WHERE p.batch_id = p_batch_id;
        ELSE
            SELECT max(c.completed_at) INTO v_ended FROM commandbus.command c WHERE c.batch_id = p_batch_id;
        END IF;
    END IF;

    UPDATE commandbus.batch b
       SET status = v_status, completed_count = v_completed, failed_count = v_failed,
           canceled_count = v_canceled, in_troubleshooting_count = v_parked,
           started_at = coalesce(b.started_at, v_started), completed_at = v_ended
     WHERE b.batch_id = p_batch_id AND b.status NOT IN ('COMPLETED', 'COMPLETED_WITH_FAILURES')
       AND (b.status, b.completed_count, b.failed_count, b.canceled_count, b.in_troubleshooting_count)
           IS DISTINCT FROM (v_status, v_completed, v_failed, v_canceled, v_parked);
END
$$;
