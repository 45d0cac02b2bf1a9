-- A batch of two processes: one has ended, one goes on.

INSERT INTO commandbus.batch (batch_id, domain, name, batch_type, status, total_count, completed_count, created_at, started_at)
VALUES (md5('orders')::uuid, 'shop', 'orders', 'PROCESS', 'IN_PROGRESS', 2, 1, now() - interval '60 min', now() - interval '60 min');

INSERT INTO commandbus.process (process_id, domain, process_type, status, current_step, state, command_id, visits, batch_id,
                                ordinal, created_at, updated_at, completed_at)
VALUES (md5('member 0')::uuid, 'shop', 'Order', 'COMPLETED', 'Ship', '{"order": 0, "done": ["Reserve", "Pay", "Ship"]}', NULL,
        '{"Reserve": 1}', md5('orders')::uuid, 0, now() - interval '60 min', now() - interval '30 min', now() - interval '30 min'),
       (md5('member 1')::uuid, 'shop', 'Order', 'WAITING_FOR_REPLY', 'Reserve', '{"order": 1, "done": []}',
        md5('member 1 Reserve')::uuid, '{"Reserve": 1}', md5('orders')::uuid, 1, now() - interval '60 min',
        now() - interval '60 min', NULL);

INSERT INTO commandbus.command (command_id, domain, command_type, payload, correlation_id, process_id, step, visit, created_at, updated_at)
VALUES (md5('member 1 Reserve')::uuid, 'shop', 'Reserve', '{}', md5('member 1')::uuid, md5('member 1')::uuid, 'Reserve', 1,
        now() - interval '60 min', now() - interval '60 min');

INSERT INTO commandbus.queue (domain, command_id, command_type, queued_at)
VALUES ('shop', md5('member 1 Reserve')::uuid, 'Reserve', now() - interval '60 min');

INSERT INTO commandbus.event (command_id, type, ts)
VALUES (md5('member 1 Reserve')::uuid, 'SENT', now() - interval '60 min');
