-- Processes in every state that the bus leaves them in. An order is reserved, paid and shipped; Return undoes Reserve.

INSERT INTO commandbus.process (process_id, domain, process_type, status, current_step, state, command_id, visits, undo,
                                undone_status, error_code, created_at, updated_at, completed_at)
SELECT md5(name)::uuid, 'shop', 'Order', status, step, json_build_object('order', 1, 'done', done::json), md5(waits_for)::uuid,
       visits::json, undo::json, undone_status, error_code, now() - interval '60 min', now() - interval '30 min',
       CASE WHEN waits_for IS NULL THEN now() - interval '30 min' END
  FROM (VALUES ('first', 'WAITING_FOR_REPLY', 'Reserve', '[]', 'first Reserve', '{"Reserve": 1}', NULL, NULL, NULL),
               ('second', 'WAITING_FOR_REPLY', 'Pay', '["Reserve"]', 'second Pay', '{"Reserve": 1, "Pay": 1}', NULL, NULL, NULL),
               ('stuck', 'WAITING_FOR_TSQ', 'Pay', '["Reserve"]', 'stuck Pay', '{"Reserve": 1, "Pay": 1}', NULL, NULL, NULL),
               ('undoing', 'COMPENSATING', 'Return', '["Reserve"]', 'undoing Return', '{"Reserve": 1, "Pay": 1, "Return": 1}',
                '[]', 'CANCELED', 'NO_MONEY'),
               ('shipped', 'COMPLETED', 'Ship', '["Reserve", "Pay", "Ship"]', NULL, '{"Reserve": 1, "Pay": 1, "Ship": 1}',
                NULL, NULL, NULL),
               ('undone', 'COMPENSATED', 'Return', '["Reserve"]', NULL, '{"Reserve": 1, "Pay": 1, "Return": 1}',
                NULL, NULL, 'CANCELED'),
               ('sold out', 'CANCELED', 'Reserve', '[]', NULL, '{"Reserve": 1}', NULL, NULL, 'NO_STOCK'),
               ('broken', 'FAILED', 'Reserve', '["Reserve"]', NULL, '{"Reserve": 1}', NULL, NULL, 'PROCESS_DECISION_FAILED'))
       AS p (name, status, step, done, waits_for, visits, undo, undone_status, error_code);

INSERT INTO commandbus.command (command_id, domain, command_type, payload, status, attempts, max_attempts, correlation_id,
                                process_id, step, visit, compensates, error_code, created_at, updated_at, completed_at)
SELECT md5(process || ' ' || step)::uuid, 'shop', step, '{"order": 1}', status, attempts, 3, md5(process)::uuid,
       md5(process)::uuid, step, 1, CASE WHEN step = 'Return' THEN md5(process || ' Reserve')::uuid END,
       CASE WHEN status = 'FAILED' THEN 'NO_MONEY' END, now() - minutes * interval '1 min',
       now() - (minutes - 10) * interval '1 min',
       CASE WHEN status IN ('COMPLETED', 'FAILED', 'CANCELED') THEN now() - (minutes - 10) * interval '1 min' END
  FROM (VALUES ('first', 'Reserve', 'PENDING', 0, 60),
               ('second', 'Reserve', 'COMPLETED', 1, 60), ('second', 'Pay', 'PENDING', 0, 50),
               ('stuck', 'Reserve', 'COMPLETED', 1, 60), ('stuck', 'Pay', 'IN_TROUBLESHOOTING_QUEUE', 1, 50),
               ('undoing', 'Reserve', 'COMPLETED', 1, 60), ('undoing', 'Pay', 'FAILED', 1, 50),
               ('undoing', 'Return', 'PENDING', 0, 40),
               ('shipped', 'Reserve', 'COMPLETED', 1, 60), ('shipped', 'Pay', 'COMPLETED', 1, 50),
               ('shipped', 'Ship', 'COMPLETED', 1, 40),
               ('undone', 'Reserve', 'COMPLETED', 1, 60), ('undone', 'Pay', 'CANCELED', 1, 50),
               ('undone', 'Return', 'COMPLETED', 1, 40),
               ('sold out', 'Reserve', 'FAILED', 1, 60),
               ('broken', 'Reserve', 'COMPLETED', 1, 60)) AS c (process, step, status, attempts, minutes);

INSERT INTO commandbus.queue (domain, command_id, command_type, max_attempts, queued_at)
SELECT domain, command_id, command_type, max_attempts, created_at
  FROM commandbus.command WHERE process_id IS NOT NULL AND status = 'PENDING' ORDER BY command_id;

INSERT INTO commandbus.troubleshooting (command_id, domain, command_type, epoch, failures, past_failures, lost_leases,
                                        max_attempts, moved_at, error_code, error_message)
SELECT command_id, domain, command_type, 1, 1, 0, 0, 3, updated_at, 'NO_MONEY', 'the card was refused'
  FROM commandbus.command WHERE process_id IS NOT NULL AND status = 'IN_TROUBLESHOOTING_QUEUE';

INSERT INTO commandbus.event (command_id, type, ts)
SELECT command_id, 'SENT', created_at FROM commandbus.command WHERE process_id IS NOT NULL;

INSERT INTO commandbus.event (command_id, type, ts, epoch, worker_id, attempt, max_attempts, lease_until)
SELECT command_id, 'RECEIVED', created_at + interval '1 min', 1, 1, 1, 3, created_at + interval '20 min'
  FROM commandbus.command WHERE process_id IS NOT NULL AND status <> 'PENDING';

INSERT INTO commandbus.event (command_id, type, ts, epoch, worker_id, attempt)
SELECT command_id, CASE status WHEN 'COMPLETED' THEN 'COMPLETED' WHEN 'FAILED' THEN 'BUSINESS_RULE_FAILED' ELSE 'MOVED_TO_TSQ' END,
       updated_at, 1, 1, 1
  FROM commandbus.command WHERE process_id IS NOT NULL AND status <> 'PENDING';

INSERT INTO commandbus.event (command_id, type, ts, epoch, attempt, details)
SELECT command_id, 'OPERATOR_CANCEL', updated_at, 1, 1, '{"operator": "ann", "reason": "asked to"}'
  FROM commandbus.command WHERE process_id IS NOT NULL AND status = 'CANCELED';

INSERT INTO commandbus.uncompleted (domain, command_type, status, created_at, command_id)
SELECT domain, command_type, status, created_at, command_id
  FROM commandbus.command WHERE process_id IS NOT NULL AND status IN ('FAILED', 'CANCELED');
