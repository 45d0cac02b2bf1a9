-- Replies that wait for a consumer. A command that becomes terminal leaves exactly one reply: a row here,
-- or, when the manager of its process lives in the application that settles it, the advance of the process.
--
-- A consumer leases the row, and deletes it once it is done with it, naming the epoch that it received it under: when
-- the lease ran out and another consumer has received it since, the row is that one's.

CREATE TABLE commandbus.reply (
    reply_id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reply_to       text        NOT NULL,     -- 'process:<process type>' for a process, which no sender may write
    command_id     uuid        NOT NULL UNIQUE,
    correlation_id uuid,
    process_id     uuid,
    outcome        text        NOT NULL,
    result         json,
    error_code     text,
    error_message  text,
    headers        json,                                     -- those that the command's handler left
    created_at     timestamptz NOT NULL,
    epoch          integer     NOT NULL DEFAULT 0,           -- how many times it was received
    lease_until    timestamptz,
    CONSTRAINT reply_outcome_known CHECK (outcome IN ('SUCCESS', 'FAILED', 'CANCELED'))
) WITH (fillfactor = 45);

CREATE INDEX ix_reply_reply_to ON commandbus.reply (reply_to, reply_id);
