-- Replies that wait: one for a consumer, one for the manager of a process in another application.

INSERT INTO commandbus.process (process_id, domain, process_type, status, current_step, state, command_id, visits, created_at, updated_at)
VALUES (md5('answered')::uuid, 'shop', 'Order', 'WAITING_FOR_REPLY', 'Reserve', '{"order": 1, "done": []}',
        md5('answered Reserve')::uuid, '{"Reserve": 1}', now() - interval '60 min', now() - interval '60 min');

INSERT INTO commandbus.command (command_id, domain, command_type, payload, status, attempts, max_attempts, correlation_id,
                                reply_to, process_id, step, visit, result, created_at, updated_at, completed_at)
SELECT md5(name)::uuid, 'shop', 'Reserve', '{}', 'COMPLETED', 1, 3, md5(process)::uuid, reply_to, md5(process)::uuid, step, visit,
       '{"shelf": 7}', now() - interval '60 min', now() - interval '50 min', now() - interval '50 min'
  FROM (VALUES ('asked', NULL, 'web', NULL, NULL::integer), ('answered Reserve', 'answered', NULL, 'Reserve', 1))
       AS c (name, process, reply_to, step, visit);

INSERT INTO commandbus.event (command_id, type, ts)
SELECT command_id, 'SENT', created_at FROM commandbus.command WHERE result IS NOT NULL;

INSERT INTO commandbus.event (command_id, type, ts, epoch, worker_id, attempt, max_attempts, lease_until)
SELECT command_id, 'RECEIVED', created_at, 1, 1, 1, 3, created_at + interval '30 min'
  FROM commandbus.command WHERE result IS NOT NULL;

INSERT INTO commandbus.event (command_id, type, ts, epoch, worker_id, attempt)
SELECT command_id, 'COMPLETED', completed_at, 1, 1, 1 FROM commandbus.command WHERE result IS NOT NULL;

INSERT INTO commandbus.reply (reply_to, command_id, process_id, outcome, result, created_at)
SELECT coalesce(reply_to, 'process:Order'), command_id, process_id, 'SUCCESS', result, completed_at
  FROM commandbus.command WHERE result IS NOT NULL ORDER BY command_id;
