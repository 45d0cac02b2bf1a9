-- Processes: one row each, updated at each step. At most one command of a process is live; the row that
-- holds it (in queue, scheduled, troubleshooting, or its reply) is also the lock under which the process
-- may be advanced, so that an advance needs no lock of its own.

CREATE TABLE commandbus.process (
    process_id     uuid        PRIMARY KEY,
    domain         text        NOT NULL,
    process_type   text        NOT NULL,
    status         text        NOT NULL,
    current_step   text,
    state          json        NOT NULL,
    command_id     uuid,                    -- the command that it waits for
    ordinal        bigint,                  -- place in its batch, from 0
    visits         json,                    -- step -> times sent
    undo           json,                    -- while COMPENSATING: what is still to be undone, next one first
    undone_status  text,                    -- while COMPENSATING: the status once all is undone
    cancel_request json,                    -- operator and reason, since it was cancelled with a command in flight
    error_code     text,
    error_message  text,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    completed_at   timestamptz,
    CONSTRAINT process_status_known CHECK (status IN
        ('PENDING', 'IN_PROGRESS', 'WAITING_FOR_REPLY', 'WAITING_FOR_TSQ', 'COMPENSATING',
         'COMPLETED', 'COMPENSATED', 'FAILED', 'CANCELED'))
) WITH (fillfactor = 25);
