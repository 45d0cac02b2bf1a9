-- What is read of commands and batches in bulk.
--
-- Listings come in pages: each begins after the key at which the one before it ended, and its reads are bounded,
-- whatever the tables hold. c_most is the number of rows that one call looks at in search of those that match; a page
-- that has fewer than were asked for tells where the next one goes on. Plans are made for the values at hand
-- (force_custom_plan), so that a filter which is not given costs nothing.

-- A command as its users see it: what command stores, with what its live row adds.
CREATE VIEW commandbus.command_state AS
SELECT c.command_id, c.domain, c.command_type, c.payload, c.correlation_id, c.reply_to, c.batch_id, c.ordinal,
       c.process_id, c.step, c.visit, c.compensates, c.result, c.created_at, c.completed_at,
       CASE WHEN c.status = 'PENDING' AND q.worker_id IS NOT NULL THEN 'IN_PROGRESS' ELSE c.status END AS status,
       CASE WHEN q.command_id IS NOT NULL THEN q.failures + (q.worker_id IS NOT NULL)::integer
            WHEN s.command_id IS NOT NULL THEN s.failures
            ELSE c.attempts END AS attempts,
       coalesce(q.max_attempts, s.max_attempts, c.max_attempts) AS max_attempts,
       coalesce(q.lost_leases, s.lost_leases, t.lost_leases, 0) AS lost_leases,
       coalesce(q.epoch, s.epoch, t.epoch) AS epoch,
       coalesce(s.error_code, c.error_code) AS error_code,
       coalesce(s.error_message, c.error_message) AS error_message,
       q.worker_id, q.lease_until, s.due_at, t.moved_at,
       greatest(c.updated_at, t.moved_at) AS updated_at
  FROM commandbus.command c
  LEFT JOIN commandbus.queue q ON q.command_id = c.command_id
  LEFT JOIN commandbus.scheduled s ON s.command_id = c.command_id
  LEFT JOIN commandbus.troubleshooting t ON t.command_id = c.command_id;

-- The commands of one status or all, newest first, after (p_created_at, p_command_id).
-- Each domain and command type is walked on its own, from its newest on, as far as p_limit and c_most allow; what lies
-- beyond the first of those ends (`walked_to`) is left to the next page. With p_pages, as far as so many pages at most.
CREATE FUNCTION commandbus.find_newest_commands(
    p_domain text, p_command_type text, p_status text, p_from timestamptz, p_to timestamptz,
    p_created_at timestamptz, p_command_id uuid, p_limit integer, p_pages integer DEFAULT NULL,
    OUT command_ids uuid[], OUT times timestamptz[], OUT walked_to_time timestamptz, OUT walked_to_id uuid)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_sort = off SET enable_bitmapscan = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    c_most    CONSTANT integer := 6000;     -- of commands, which takes some 5 ms
    v_is_rare boolean := coalesce(p_status IN ('FAILED', 'CANCELED'), false);
    v_domains text[] := ARRAY[p_domain];
    v_types   text[] := ARRAY[p_command_type];
    v_each    integer;
BEGIN
    IF p_domain IS NULL OR p_command_type IS NULL THEN
        WITH RECURSIVE kind AS (      -- from one to the next, a single look into the index each
            (SELECT c.domain, c.command_type FROM commandbus.command c
              WHERE p_domain IS NULL OR c.domain = p_domain
              ORDER BY c.domain, c.command_type LIMIT 1)
            UNION ALL
            SELECT n.domain, n.command_type
              FROM kind k
             CROSS JOIN LATERAL (     -- together the two conditions would be looked for from the domain's first row on
                    (SELECT c.domain, c.command_type FROM commandbus.command c
                      WHERE p_domain IS NULL AND (c.domain, c.command_type) > (k.domain, k.command_type)
                      ORDER BY c.domain, c.command_type LIMIT 1)
                    UNION ALL
                    (SELECT c.domain, c.command_type FROM commandbus.command c
                      WHERE c.domain = p_domain AND c.command_type > k.command_type
                      ORDER BY c.domain, c.command_type LIMIT 1)) n
        )
        SELECT array_agg(k.domain), array_agg(k.command_type) INTO v_domains, v_types FROM kind k
         WHERE p_command_type IS NULL OR k.command_type = p_command_type;
    END IF;
    IF v_domains IS NULL THEN
        RETURN;
    END IF;
    v_each := p_limit + 1;
    IF p_status IS NOT NULL AND NOT v_is_rare THEN
        v_each := greatest(v_each, least(c_most, p_pages * v_each) / cardinality(v_domains));
    END IF;

    WITH walked AS MATERIALIZED (
        SELECT w.*
          FROM unnest(v_domains, v_types) AS k (domain, command_type)
         CROSS JOIN LATERAL (
                SELECT c.created_at, c.command_id, c.status,
                       row_number() OVER (ORDER BY c.created_at DESC, c.command_id DESC) AS place
                  FROM commandbus.command c
                 WHERE NOT v_is_rare AND c.domain = k.domain AND c.command_type = k.command_type
                   AND c.created_at >= p_from AND c.created_at < p_to
                   AND (c.created_at, c.command_id) < (p_created_at, p_command_id)
                 ORDER BY c.created_at DESC, c.command_id DESC LIMIT v_each) w
        UNION ALL
        SELECT w.*
          FROM unnest(v_domains, v_types) AS k (domain, command_type)
         CROSS JOIN LATERAL (
                SELECT u.created_at, u.command_id, u.status,
                       row_number() OVER (ORDER BY u.created_at DESC, u.command_id DESC) AS place
                  FROM commandbus.uncompleted u
                 WHERE v_is_rare AND u.domain = k.domain AND u.command_type = k.command_type AND u.status = p_status
                   AND u.created_at >= p_from AND u.created_at < p_to
                   AND (u.created_at, u.command_id) < (p_created_at, p_command_id)
                 ORDER BY u.created_at DESC, u.command_id DESC LIMIT v_each) w
    ), walked_to AS MATERIALIZED (
        SELECT w.created_at, w.command_id FROM walked w WHERE w.place = v_each
         ORDER BY w.created_at DESC, w.command_id DESC LIMIT 1
    ), matching AS MATERIALIZED (
        SELECT w.created_at, w.command_id
          FROM walked w
          LEFT JOIN walked_to e ON true
          LEFT JOIN commandbus.queue q ON q.command_id = w.command_id AND w.status = 'PENDING'
                                      AND p_status IN ('PENDING', 'IN_PROGRESS')
         WHERE (e.command_id IS NULL OR (w.created_at, w.command_id) >= (e.created_at, e.command_id))
           AND (p_status IS NULL OR CASE WHEN q.worker_id IS NULL THEN w.status ELSE 'IN_PROGRESS' END = p_status)
         ORDER BY w.created_at DESC, w.command_id DESC LIMIT p_limit + 1
    )
    SELECT array_agg(m.command_id ORDER BY m.created_at DESC, m.command_id DESC),
           array_agg(m.created_at ORDER BY m.created_at DESC, m.command_id DESC),
           (SELECT e.created_at FROM walked_to e), (SELECT e.command_id FROM walked_to e)
      INTO command_ids, times, walked_to_time, walked_to_id
      FROM matching m;
END
$$;

-- The live commands of one status, newest first, by way of the tables that hold only live ones. NULL when those hold
-- more than c_most rows.
CREATE FUNCTION commandbus.find_live_commands(
    p_domain text, p_command_type text, p_status text, p_from timestamptz, p_to timestamptz,
    p_created_at timestamptz, p_command_id uuid, p_limit integer,
    OUT command_ids uuid[], OUT times timestamptz[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_sort = off SET enable_bitmapscan = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    c_most  CONSTANT integer := 10000;
    v_count integer;
    v_ids   uuid[];
BEGIN
    WITH live AS (
        (SELECT q.command_id, q.command_type,
                CASE WHEN q.worker_id IS NULL THEN 'PENDING' ELSE 'IN_PROGRESS' END AS status
           FROM commandbus.queue q
          WHERE p_status <> 'IN_TROUBLESHOOTING_QUEUE' AND (p_domain IS NULL OR q.domain = p_domain)
          ORDER BY q.domain, q.seq LIMIT c_most + 1)
        UNION ALL
        (SELECT s.command_id, s.command_type, 'PENDING' FROM commandbus.scheduled s
          WHERE p_status = 'PENDING' AND (p_domain IS NULL OR s.domain = p_domain)
          ORDER BY s.domain, s.due_at LIMIT c_most + 1)
        UNION ALL
        (SELECT t.command_id, t.command_type, 'IN_TROUBLESHOOTING_QUEUE' FROM commandbus.troubleshooting t
          WHERE p_status = 'IN_TROUBLESHOOTING_QUEUE' AND (p_domain IS NULL OR t.domain = p_domain)
          ORDER BY t.domain, t.moved_at LIMIT c_most + 1)
    )
    SELECT count(*),
           coalesce(array_agg(l.command_id) FILTER (
               WHERE l.status = p_status AND (p_command_type IS NULL OR l.command_type = p_command_type)), '{}')
      INTO v_count, v_ids FROM live l;
    IF v_count > c_most THEN
        RETURN;
    END IF;

    WITH live AS MATERIALIZED (      -- so that each is looked up by its id, never a range of times walked through
        SELECT c.created_at, c.command_id
          FROM unnest(v_ids) AS l (command_id)
          JOIN commandbus.command c ON c.command_id = l.command_id
    ), matching AS (
        SELECT l.created_at, l.command_id FROM live l
         WHERE l.created_at >= p_from AND l.created_at < p_to
           AND (l.created_at, l.command_id) < (p_created_at, p_command_id)
         ORDER BY l.created_at DESC, l.command_id DESC LIMIT p_limit + 1
    )
    SELECT coalesce(array_agg(m.command_id ORDER BY m.created_at DESC, m.command_id DESC), '{}'),
           coalesce(array_agg(m.created_at ORDER BY m.created_at DESC, m.command_id DESC), '{}')
      INTO command_ids, times FROM matching m;
END
$$;

-- The leased commands in the order of the queue, after p_seq: with a long backlog they are at its head, where nothing
-- but a walk from there finds them. Each domain is walked on its own; what lies beyond the first of those ends is left
-- to the next page.
CREATE FUNCTION commandbus.find_leased_commands(
    p_domain text, p_command_type text, p_from timestamptz, p_to timestamptz, p_seq bigint, p_limit integer,
    OUT command_ids uuid[], OUT next_seq bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_sort = off SET enable_bitmapscan = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    c_most    CONSTANT integer := 10000;
    v_domains text[] := ARRAY[p_domain];
    v_each    bigint;
    v_last    bigint;
    v_seqs    bigint[];
BEGIN
    IF p_domain IS NULL THEN
        WITH RECURSIVE queued (name) AS (
            SELECT min(q.domain) FROM commandbus.queue q
            UNION ALL
            SELECT (SELECT min(q.domain) FROM commandbus.queue q WHERE q.domain > d.name)
              FROM queued d WHERE d.name IS NOT NULL
        )
        SELECT array_agg(d.name) INTO v_domains FROM queued d WHERE d.name IS NOT NULL;
    END IF;
    v_each := greatest(c_most / cardinality(v_domains), 1);
    WITH walked AS MATERIALIZED (
        SELECT w.*
          FROM unnest(v_domains) AS d (domain)
         CROSS JOIN LATERAL (
                SELECT q.seq, q.command_id, q.command_type, q.worker_id, row_number() OVER (ORDER BY q.seq) AS place
                  FROM commandbus.queue q
                 WHERE q.domain = d.domain AND q.seq > p_seq ORDER BY q.seq LIMIT v_each) w
    ), walked_to AS MATERIALIZED (
        SELECT min(w.seq) AS seq FROM walked w WHERE w.place = v_each
    ), leased AS MATERIALIZED (
        SELECT w.seq, w.command_id, c.created_at
          FROM walked w
          JOIN walked_to e ON w.seq <= coalesce(e.seq, w.seq)
          JOIN commandbus.command c ON c.command_id = w.command_id
         WHERE w.worker_id IS NOT NULL AND (p_command_type IS NULL OR w.command_type = p_command_type)
    ), matching AS MATERIALIZED (
        SELECT l.seq, l.command_id FROM leased l
         WHERE l.created_at >= p_from AND l.created_at < p_to
         ORDER BY l.seq LIMIT p_limit + 1
    )
    SELECT (SELECT e.seq FROM walked_to e), array_agg(m.command_id ORDER BY m.seq), array_agg(m.seq ORDER BY m.seq)
      INTO v_last, command_ids, v_seqs FROM matching m;
    IF cardinality(command_ids) > p_limit THEN
        command_ids := command_ids[:p_limit];
        next_seq := v_seqs[p_limit];
    ELSE
        next_seq := v_last;
    END IF;
END
$$;

-- The ids of a page of commands, and what the next page begins after: a time and an id, or, for leased commands while
-- there is a long backlog, a seq; nothing at the end.
CREATE FUNCTION commandbus.find_commands(
    p_domain text, p_command_type text, p_status text, p_from timestamptz, p_to timestamptz,
    p_created_at timestamptz, p_command_id uuid, p_seq bigint, p_limit integer,
    OUT command_ids uuid[], OUT next_created_at timestamptz, OUT next_command_id uuid, OUT next_seq bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    v_from  timestamptz := coalesce(p_from, '-infinity');
    v_to    timestamptz := coalesce(p_to, 'infinity');
    v_time  timestamptz := coalesce(p_created_at, 'infinity');
    v_id    uuid := coalesce(p_command_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff');
    v_times timestamptz[];
BEGIN
    IF p_status IN ('COMPLETED', 'PENDING') THEN    -- the newest are mostly that, or mostly not: a short look tells
        SELECT f.command_ids, f.times, f.walked_to_time, f.walked_to_id
          INTO command_ids, v_times, next_created_at, next_command_id
          FROM commandbus.find_newest_commands(
                   p_domain, p_command_type, p_status, v_from, v_to, v_time, v_id, p_limit, 10) f;
        IF next_command_id IS NOT NULL AND coalesce(cardinality(command_ids), 0) <= p_limit THEN
            command_ids := NULL; v_times := NULL; next_created_at := NULL; next_command_id := NULL;
        END IF;
    END IF;
    IF v_times IS NULL AND p_status IN ('PENDING', 'IN_PROGRESS', 'IN_TROUBLESHOOTING_QUEUE') AND p_seq IS NULL THEN
        SELECT f.command_ids, f.times INTO command_ids, v_times
          FROM commandbus.find_live_commands(
                   p_domain, p_command_type, p_status, v_from, v_to, v_time, v_id, p_limit) f;
    END IF;
    IF v_times IS NULL AND p_status = 'IN_PROGRESS' AND p_command_id IS NULL THEN
        SELECT f.command_ids, f.next_seq INTO command_ids, next_seq
          FROM commandbus.find_leased_commands(
                   p_domain, p_command_type, v_from, v_to, coalesce(p_seq, 0), p_limit) f;
        RETURN;
    END IF;
    IF v_times IS NULL THEN
        SELECT f.command_ids, f.times, f.walked_to_time, f.walked_to_id
          INTO command_ids, v_times, next_created_at, next_command_id
          FROM commandbus.find_newest_commands(
                   p_domain, p_command_type, p_status, v_from, v_to, v_time, v_id, p_limit) f;
    END IF;
    IF cardinality(command_ids) > p_limit THEN
        command_ids := command_ids[:p_limit];
        next_created_at := v_times[p_limit];
        next_command_id := command_ids[p_limit];
    END IF;
END
$$;

-- The ids of a page of a batch's commands, in the order of their ordinals, and the ordinal that the next begins after.
CREATE FUNCTION commandbus.find_batch_commands(
    p_batch_id uuid, p_status text, p_ordinal bigint, p_limit integer,
    OUT command_ids uuid[], OUT next_ordinal bigint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
SET enable_sort = off SET enable_bitmapscan = off SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    c_most     CONSTANT integer := 10000;
    v_each     integer := CASE WHEN p_status IS NULL THEN p_limit + 1 ELSE c_most END;
    v_walked   integer;
    v_last     bigint;
    v_ordinals bigint[];
BEGIN
    WITH walked AS MATERIALIZED (
        SELECT c.ordinal, c.command_id, c.status FROM commandbus.command c
         WHERE c.batch_id = p_batch_id AND c.ordinal > p_ordinal
         ORDER BY c.batch_id, c.ordinal LIMIT v_each
    ), matching AS MATERIALIZED (
        SELECT w.ordinal, w.command_id
          FROM walked w
          LEFT JOIN commandbus.queue q ON q.command_id = w.command_id AND w.status = 'PENDING'
                                      AND p_status IN ('PENDING', 'IN_PROGRESS')
         WHERE p_status IS NULL OR CASE WHEN q.worker_id IS NULL THEN w.status ELSE 'IN_PROGRESS' END = p_status
         ORDER BY w.ordinal LIMIT p_limit + 1
    )
    SELECT (SELECT count(*) FROM walked), (SELECT max(w.ordinal) FROM walked w),
           array_agg(m.command_id ORDER BY m.ordinal), array_agg(m.ordinal ORDER BY m.ordinal)
      INTO v_walked, v_last, command_ids, v_ordinals FROM matching m;
    IF cardinality(command_ids) > p_limit THEN
        command_ids := command_ids[:p_limit];
        next_ordinal := v_ordinals[p_limit];
    ELSIF v_walked = v_each THEN
        next_ordinal := v_last;
    END IF;
END
$$;

-- These commands as their users see them, in the order given.
CREATE FUNCTION commandbus.read_commands(p_command_ids uuid[]) RETURNS SETOF commandbus.command_state
LANGUAGE sql STABLE ROWS 100
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET enable_material = off
AS $$
    SELECT s.* FROM unnest(p_command_ids) WITH ORDINALITY AS w (command_id, place)
      JOIN commandbus.command_state s ON s.command_id = w.command_id
     ORDER BY w.place
$$;

-- A page of batches, newest first, after (p_created_at, p_batch_id). Those that have not ended are recounted, so long
-- as they have no more than c_members members together. When there are more pages a last row without a domain tells,
-- by its created_at and batch_id, what the next one begins after.
CREATE FUNCTION commandbus.read_batches(
    p_domain text, p_batch_type text, p_status text, p_created_at timestamptz, p_batch_id uuid, p_limit integer)
RETURNS SETOF commandbus.batch
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET jit = off SET enable_seqscan = off SET enable_sort = off SET enable_bitmapscan = off
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    c_most     CONSTANT integer := 10000;
    c_members  CONSTANT integer := 100000;
    v_examined integer := 0;
    v_found    integer := 0;
    v_members  bigint := 0;
    v_batch    commandbus.batch%ROWTYPE;
    v_next     commandbus.batch%ROWTYPE;
BEGIN
    FOR v_batch IN
        SELECT b.* FROM commandbus.batch b
         WHERE (p_domain IS NULL OR b.domain = p_domain)
           AND (b.created_at, b.batch_id) < (coalesce(p_created_at, 'infinity'),
                                             coalesce(p_batch_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
         ORDER BY b.created_at DESC, b.batch_id DESC LIMIT c_most + 1
    LOOP
        IF v_found = p_limit OR v_examined = c_most OR v_members > c_members THEN
            RETURN NEXT v_next;
            RETURN;
        END IF;
        v_examined := v_examined + 1;
        v_next.created_at := v_batch.created_at;
        v_next.batch_id := v_batch.batch_id;
        CONTINUE WHEN v_batch.batch_type <> p_batch_type;
        IF v_batch.status NOT IN ('COMPLETED', 'COMPLETED_WITH_FAILURES') THEN
            v_members := v_members + v_batch.total_count;
            PERFORM commandbus.sp_refresh_batch_stats(v_batch.domain, v_batch.batch_id);
            SELECT * INTO v_batch FROM commandbus.batch b WHERE b.batch_id = v_batch.batch_id;
        END IF;
        CONTINUE WHEN v_batch.status <> p_status;
        v_found := v_found + 1;
        RETURN NEXT v_batch;
    END LOOP;
END
$$;
