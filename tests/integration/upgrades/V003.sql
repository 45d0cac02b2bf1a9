-- The worker that made this history has stopped; another one died.

INSERT INTO commandbus.worker (domain, host, pid, command_types, process_types, concurrency, started_at, heartbeat_at,
                               alive_until, stopped_at, claimed, completed)
VALUES ('shop', 'old', 11, '{Pay,Reserve,Return,Ship}', '{Order}', 10, now() - interval '70 min', now() - interval '20 min',
        now() - interval '19 min', now() - interval '20 min', 27, 17),
       ('shop', 'old', 12, '{Pay,Reserve,Return,Ship}', '{Order}', 10, now() - interval '70 min', now() - interval '30 min',
        now() - interval '29 min', NULL, 0, 0);

INSERT INTO commandbus.worker_statistic (second, worker_id, command_type, claimed, completed, failed, retried, parked,
                                         run_seconds, run_buckets, run_counts, wait_seconds, wait_buckets, wait_counts)
VALUES (date_trunc('second', now() - interval '20 min'), 1, 'Reserve', 2, 2, 0, 0, 0, 0.5, '{120,130}', '{1,1}', 0.1, '{90}', '{2}');
