-- Commands in every place and every state, as the functions of the schema leave them. Ids are md5 of the names.

INSERT INTO commandbus.batch (batch_id, domain, name, status, total_count, completed_count, created_at, started_at, completed_at)
SELECT md5(name)::uuid, 'shop', name, status, 2, completed, now() - interval '60 min', now() - interval '50 min', ended
  FROM (VALUES ('half batch', 'IN_PROGRESS', 1, NULL::timestamptz),
               ('whole batch', 'COMPLETED', 2, now() - interval '40 min')) AS b (name, status, completed, ended);

INSERT INTO commandbus.command (command_id, domain, command_type, payload, status, attempts, max_attempts, batch_id, ordinal,
                                error_code, created_at, updated_at, completed_at)
SELECT md5(name)::uuid, 'shop', 'Reserve', json_build_object('name', name), status, attempts, max_attempts,
       md5(batch)::uuid, ordinal, error_code, now() - interval '60 min', now() - interval '40 min',
       CASE WHEN status IN ('COMPLETED', 'FAILED', 'CANCELED') THEN now() - interval '40 min' END
  FROM (VALUES ('sent', 'PENDING', 0, NULL::integer, NULL, NULL::bigint, NULL),
               ('released', 'PENDING', 0, 3, NULL, NULL, NULL),
               ('retried', 'PENDING', 0, 3, NULL, NULL, NULL),
               ('leased', 'PENDING', 0, 3, NULL, NULL, NULL),
               ('last lease', 'PENDING', 0, 1, NULL, NULL, NULL),
               ('second life', 'PENDING', 0, 3, NULL, NULL, NULL),
               ('parked', 'IN_TROUBLESHOOTING_QUEUE', 1, 3, NULL, NULL, 'NO_STOCK'),
               ('done', 'COMPLETED', 1, 3, NULL, NULL, NULL),
               ('helped', 'COMPLETED', 1, 3, NULL, NULL, NULL),
               ('refused', 'FAILED', 1, 3, NULL, NULL, 'NO_STOCK'),
               ('cancelled', 'CANCELED', 0, NULL, NULL, NULL, NULL),
               ('given up', 'CANCELED', 1, 3, NULL, NULL, 'CANCELED'),
               ('half 1', 'COMPLETED', 1, 3, 'half batch', 0, NULL),
               ('half 2', 'PENDING', 0, NULL, 'half batch', 1, NULL),
               ('whole 1', 'COMPLETED', 1, 3, 'whole batch', 0, NULL),
               ('whole 2', 'COMPLETED', 1, 3, 'whole batch', 1, NULL))
       AS c (name, status, attempts, max_attempts, batch, ordinal, error_code);

INSERT INTO commandbus.queue (domain, command_id, command_type, epoch, past_failures, max_attempts, queued_at, lease_until, worker_id)
SELECT 'shop', md5(name)::uuid, 'Reserve', epoch, past_failures, max_attempts, now() - interval '60 min', lease_until, worker_id
  FROM (VALUES ('sent', 0, 0, NULL::integer, NULL::timestamptz, NULL::integer),
               ('half 2', 0, 0, NULL, NULL, NULL),
               ('released', 1, 0, 3, NULL, NULL),
               ('second life', 1, 1, 3, NULL, NULL),
               ('leased', 1, 0, 3, now() - interval '20 min', 1),
               ('last lease', 1, 0, 1, now() - interval '20 min', 1))
       AS q (name, epoch, past_failures, max_attempts, lease_until, worker_id);

INSERT INTO commandbus.scheduled (command_id, domain, command_type, epoch, failures, past_failures, lost_leases, max_attempts,
                                  due_at, error_code, error_message)
VALUES (md5('retried')::uuid, 'shop', 'Reserve', 1, 1, 0, 0, 3, now() - interval '10 min', 'BUSY', 'try again');

INSERT INTO commandbus.troubleshooting (command_id, domain, command_type, epoch, failures, past_failures, lost_leases,
                                        max_attempts, moved_at, error_code, error_message)
VALUES (md5('parked')::uuid, 'shop', 'Reserve', 1, 1, 0, 0, 3, now() - interval '40 min', 'NO_STOCK', 'none left');

INSERT INTO commandbus.event (command_id, type, ts, details)
SELECT command_id, 'SENT', created_at, NULL FROM commandbus.command ORDER BY command_id;

INSERT INTO commandbus.event (command_id, type, ts, epoch, worker_id, attempt, max_attempts, lease_until)
SELECT command_id, 'RECEIVED', now() - interval '50 min', 1, 1, 1, max_attempts, now() - interval '20 min'
  FROM commandbus.command WHERE max_attempts IS NOT NULL ORDER BY command_id;

INSERT INTO commandbus.event (command_id, type, ts, epoch, worker_id, attempt, details)
SELECT md5(name)::uuid, type, now() - interval '40 min', 1, 1, attempt, details::json
  FROM (VALUES ('released', 'RELEASED', NULL::integer, NULL),
               ('retried', 'RETRY_SCHEDULED', 1, '{"code": "BUSY", "message": "try again"}'),
               ('second life', 'MOVED_TO_TSQ', 1, '{"code": "NO_STOCK"}'),
               ('parked', 'MOVED_TO_TSQ', 1, '{"code": "NO_STOCK"}'),
               ('helped', 'MOVED_TO_TSQ', 1, '{"code": "NO_STOCK"}'),
               ('given up', 'MOVED_TO_TSQ', 1, '{"code": "NO_STOCK"}'),
               ('refused', 'BUSINESS_RULE_FAILED', 1, '{"code": "NO_STOCK"}'),
               ('done', 'COMPLETED', 1, NULL), ('half 1', 'COMPLETED', 1, NULL),
               ('whole 1', 'COMPLETED', 1, NULL), ('whole 2', 'COMPLETED', 1, NULL)) AS e (name, type, attempt, details);

INSERT INTO commandbus.event (command_id, type, ts, epoch, details)
SELECT md5(name)::uuid, type, now() - interval '40 min', epoch, '{"operator": "ann", "reason": "asked to"}'
  FROM (VALUES ('second life', 'OPERATOR_RETRY', 1), ('helped', 'OPERATOR_COMPLETE', 1),
               ('given up', 'OPERATOR_CANCEL', 1), ('cancelled', 'CANCELED', NULL)) AS e (name, type, epoch);

INSERT INTO commandbus.uncompleted (domain, command_type, status, created_at, command_id)
SELECT domain, command_type, status, created_at, command_id FROM commandbus.command WHERE status IN ('FAILED', 'CANCELED');
