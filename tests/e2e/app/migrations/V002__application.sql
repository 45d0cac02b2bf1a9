-- What the application remembers beside the bus: how far the making of a batch is, and named sets of behaviors.

CREATE SCHEMA app;

-- Numbers batches: what is rolled for their members depends on it, so that no two batches fail alike.
CREATE SEQUENCE app.batch_number AS integer;

-- One row for each batch of processes. COMPLETE: all are stored. ABANDONED: its client went away meanwhile, and what was
-- stored was cancelled. INTERRUPTED: the server ended or failed. One that is CREATING and has not been touched for long
-- was interrupted too, by the end of a server that could not say so.
CREATE TABLE app.creation (
    batch_id   uuid        PRIMARY KEY,
    requested  integer     NOT NULL,
    created    integer     NOT NULL DEFAULT 0,
    state      text        NOT NULL DEFAULT 'CREATING',
    error      text,
    touched_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT creation_state_known CHECK (state IN ('CREATING', 'COMPLETE', 'ABANDONED', 'INTERRUPTED'))
);

-- The load tests: each is one batch of test commands.
CREATE TABLE app.load_test (
    batch_id uuid        PRIMARY KEY,
    number   integer     NOT NULL UNIQUE,            -- of the batch: the largest is the newest
    commands integer     NOT NULL,
    sent_at  timestamptz NOT NULL                    -- the bus's clock
);

CREATE TABLE app.chaos_profile (
    name     text PRIMARY KEY,
    behavior json NOT NULL
);
