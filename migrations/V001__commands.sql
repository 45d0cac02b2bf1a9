-- Commands and the places in which a live one can be.
--
-- A command is one row of `command`, written when it is sent and updated once, when it is settled
-- for good. While it lives it has exactly one row in exactly one of three tables:
--
--   queue            due now, or leased by a worker (then worker_id and lease_until are set)
--   scheduled        a retry, or a command given back with a delay, that waits for due_at
--   troubleshooting  parked until an operator decides
--
-- A terminal command (COMPLETED, FAILED, CANCELED) has none. A FAILED or CANCELED one has a row in `uncompleted`, by
-- which it is found. `event` is the audit trail: insert only,
-- one state event for each change of state, in the transaction that makes the change.
--
-- epoch grows by one with each claim and travels with the command from table to table; a settle names
-- the epoch that it was claimed under, so that a worker which lost its lease can change nothing.
--
-- No update on the common path touches an indexed column, so that all of them are heap-only (HOT);
-- the fill factors leave them the room.

CREATE SCHEMA IF NOT EXISTS commandbus;

-- The one clock. Inlined into each statement; a test's schema replaces it by one with an offset.
CREATE FUNCTION commandbus.now() RETURNS timestamptz
LANGUAGE sql STABLE PARALLEL SAFE
AS $$ SELECT pg_catalog.statement_timestamp() $$;

-- A domain's NOTIFY channel: hashed, since LISTEN silently cuts a name at 63 bytes.
CREATE FUNCTION commandbus.channel(p_domain text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$ SELECT 'commandbus_' || pg_catalog.md5(p_domain) $$;

CREATE TABLE commandbus.command (
    command_id     uuid        PRIMARY KEY,
    domain         text        NOT NULL,
    command_type   text        NOT NULL,
    payload        json        NOT NULL,
    status         text        NOT NULL DEFAULT 'PENDING',   -- IN_PROGRESS is a lease in queue, see command_state
    attempts       integer     NOT NULL DEFAULT 0,
    max_attempts   integer,
    correlation_id uuid,
    reply_to       text,
    batch_id       uuid,
    ordinal        bigint,                                   -- place in its COMMAND batch, from 0
    process_id     uuid,
    step           text,
    visit          integer,                                  -- how many times its process has sent this step
    compensates    uuid,                                     -- the command whose effect this one undoes
    headers        json,                                     -- texts that travel along, such as a trace's context
    result         json,
    error_code     text,
    error_message  text,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    completed_at   timestamptz,
    CONSTRAINT command_status_known CHECK (status IN
        ('PENDING', 'COMPLETED', 'FAILED', 'CANCELED', 'IN_TROUBLESHOOTING_QUEUE'))
) WITH (fillfactor = 45);

CREATE INDEX ix_command_batch_id ON commandbus.command (batch_id, ordinal) WHERE batch_id IS NOT NULL;
-- For listings, newest first. Commands stored together have one created_at, so that equal keys share an entry: an
-- eighth of the size that it would have with command_id in it.
CREATE INDEX ix_command_created_at ON commandbus.command (domain, command_type, created_at);
CREATE INDEX ix_command_process_id ON commandbus.command (process_id) WHERE process_id IS NOT NULL;

-- The FAILED and CANCELED commands once more: few among many, which no index over command.status may find.
CREATE TABLE commandbus.uncompleted (
    domain         text        NOT NULL,
    command_type   text        NOT NULL,
    status         text        NOT NULL,
    created_at     timestamptz NOT NULL,                     -- of the command
    command_id     uuid        NOT NULL,
    PRIMARY KEY (domain, command_type, status, created_at, command_id),
    CONSTRAINT uncompleted_status_known CHECK (status IN ('FAILED', 'CANCELED'))
);

CREATE TABLE commandbus.queue (
    seq            bigint      GENERATED ALWAYS AS IDENTITY,
    domain         text        NOT NULL,
    command_id     uuid        NOT NULL,
    command_type   text        NOT NULL,
    epoch          integer     NOT NULL DEFAULT 0,
    failures       integer     NOT NULL DEFAULT 0,           -- recorded in this life
    past_failures  integer     NOT NULL DEFAULT 0,           -- recorded in earlier lives
    lost_leases    integer     NOT NULL DEFAULT 0,           -- in this life, counted apart from failures
    max_attempts   integer,
    queued_at      timestamptz NOT NULL,
    lease_until    timestamptz,
    worker_id      integer,
    canceling      boolean     NOT NULL DEFAULT false,       -- in flight when its process was cancelled
    PRIMARY KEY (domain, seq),
    CONSTRAINT queue_lease_whole CHECK ((lease_until IS NULL) = (worker_id IS NULL))
) WITH (fillfactor = 30, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 100000);

CREATE UNIQUE INDEX ix_queue_command_id ON commandbus.queue (command_id);

CREATE TABLE commandbus.scheduled (
    command_id     uuid        PRIMARY KEY,
    domain         text        NOT NULL,
    command_type   text        NOT NULL,
    epoch          integer     NOT NULL,
    failures       integer     NOT NULL,
    past_failures  integer     NOT NULL,
    lost_leases    integer     NOT NULL,
    max_attempts   integer,
    due_at         timestamptz NOT NULL,
    error_code     text,
    error_message  text
);

CREATE INDEX ix_scheduled_due_at ON commandbus.scheduled (domain, due_at);

CREATE TABLE commandbus.troubleshooting (
    command_id     uuid        PRIMARY KEY,
    domain         text        NOT NULL,
    command_type   text        NOT NULL,
    epoch          integer     NOT NULL,
    failures       integer     NOT NULL,
    past_failures  integer     NOT NULL,
    lost_leases    integer     NOT NULL,
    max_attempts   integer,
    moved_at       timestamptz NOT NULL,
    error_code     text,
    error_message  text
);

-- Operators read the oldest first: of all, of a domain, of a command type, of both.
CREATE INDEX ix_troubleshooting_moved_at ON commandbus.troubleshooting (moved_at, command_id);
CREATE INDEX ix_troubleshooting_domain ON commandbus.troubleshooting (domain, moved_at, command_id);
CREATE INDEX ix_troubleshooting_type ON commandbus.troubleshooting (command_type, moved_at, command_id);
CREATE INDEX ix_troubleshooting_domain_type
    ON commandbus.troubleshooting (domain, command_type, moved_at, command_id);

CREATE TABLE commandbus.event (
    command_id     uuid        NOT NULL,
    event_id       bigint      GENERATED ALWAYS AS IDENTITY,
    type           text        NOT NULL,
    ts             timestamptz NOT NULL,
    epoch          integer,
    worker_id      integer,
    attempt        integer,
    max_attempts   integer,
    lease_until    timestamptz,
    details        json,
    PRIMARY KEY (command_id, event_id)
);

CREATE TABLE commandbus.batch (
    batch_id                 uuid        PRIMARY KEY,
    domain                   text        NOT NULL,
    name                     text,
    custom_data              json,
    status                   text        NOT NULL DEFAULT 'PENDING',
    total_count              integer     NOT NULL,
    completed_count          integer     NOT NULL DEFAULT 0,
    failed_count             integer     NOT NULL DEFAULT 0,
    canceled_count           integer     NOT NULL DEFAULT 0,
    in_troubleshooting_count integer     NOT NULL DEFAULT 0,
    created_at               timestamptz NOT NULL,
    started_at               timestamptz,
    completed_at             timestamptz,
    canceled_at              timestamptz      -- since then nothing more is started in it
);

CREATE INDEX ix_batch_created_at ON commandbus.batch (created_at, batch_id);
CREATE INDEX ix_batch_domain_created_at ON commandbus.batch (domain, created_at, batch_id);
