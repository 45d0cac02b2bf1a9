-- The runner's own tables, in a schema of their own beside that of the bus. down.sql takes them back.
CREATE SCHEMA report;

CREATE TABLE report.lead (
    lead_id    bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text        NOT NULL,
    company    text        NOT NULL,
    email      text        NOT NULL,
    status     text        NOT NULL CHECK (status IN ('new', 'contacted', 'qualified', 'lost')),
    score      integer     NOT NULL CHECK (score BETWEEN 0 AND 100),
    tier       text        GENERATED ALWAYS AS (CASE WHEN score >= 80 THEN 'A' WHEN score >= 50 THEN 'B' ELSE 'C' END) STORED,
    provider   text,       -- who will report on it; NULL: known only once it is run
    created_at timestamptz NOT NULL
);
CREATE INDEX lead_status_tier ON report.lead (status, tier, lead_id);
CREATE INDEX lead_created ON report.lead (created_at);

-- One run. Its leads are the processes of the bus's batch of the same id.
CREATE TABLE report.batch (
    batch_id         uuid          PRIMARY KEY,
    owner            text          NOT NULL,
    template_version text          NOT NULL,
    lead_count       integer       NOT NULL,
    quoted_cost      numeric(12,2) NOT NULL,
    unit_costs       jsonb         NOT NULL,     -- provider -> cost of a lead, as quoted
    status           text          NOT NULL DEFAULT 'PENDING' CHECK (status IN
        ('PENDING', 'PROCESSING', 'COMPLETED', 'COMPLETED_WITH_ERRORS', 'FAILED', 'CANCELLED')),
    ending           text          CHECK (ending IN ('cancelled', 'time limit', 'rollback')),  -- asked for, or overdue
    error            text,
    actual_cost      numeric(14,4),
    created_at       timestamptz   NOT NULL,
    started_at       timestamptz,
    ended_at         timestamptz
);
CREATE INDEX batch_owner ON report.batch (owner, created_at DESC);
CREATE INDEX batch_created ON report.batch (created_at);
CREATE INDEX batch_open ON report.batch (created_at) WHERE status IN ('PENDING', 'PROCESSING');

CREATE TABLE report.batch_lead (
    batch_id      uuid        NOT NULL REFERENCES report.batch ON DELETE CASCADE,
    lead_id       bigint      NOT NULL,
    ordinal       integer     NOT NULL,
    status        text        NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'DONE', 'FAILED', 'CANCELLED')),
    attempts      integer     NOT NULL DEFAULT 0,
    error_code    text,
    error_message text,
    ended_at      timestamptz,
    PRIMARY KEY (batch_id, lead_id)
) WITH (fillfactor = 60);

-- What a lead has cost, and the report that was made. Nothing is unique here: that neither happens twice is the
-- handlers' business, and the tests would see it.
CREATE TABLE report.charge (
    batch_id   uuid          NOT NULL REFERENCES report.batch ON DELETE CASCADE,
    lead_id    bigint        NOT NULL,
    provider   text          NOT NULL,
    amount     numeric(12,4) NOT NULL,
    charged_at timestamptz   NOT NULL
);
CREATE INDEX charge_batch ON report.charge (batch_id, lead_id);

CREATE TABLE report.document (
    batch_id uuid        NOT NULL REFERENCES report.batch ON DELETE CASCADE,
    lead_id  bigint      NOT NULL,
    path     text        NOT NULL,
    bytes    integer     NOT NULL,
    made_at  timestamptz NOT NULL
);
CREATE INDEX document_batch ON report.document (batch_id, lead_id);

-- The history of costs: every quote, with the batch that it led to.
CREATE TABLE report.quote (
    quote_id         bigint        GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner            text          NOT NULL,
    template_version text          NOT NULL,
    lead_count       integer       NOT NULL,
    total            numeric(12,2) NOT NULL,
    batch_id         uuid,
    quoted_at        timestamptz   NOT NULL
);

CREATE TABLE report.budget_alert (
    day       date          NOT NULL,
    level     integer       NOT NULL,       -- percent of the daily budget
    spent     numeric(14,2) NOT NULL,
    budget    numeric(14,2) NOT NULL,
    raised_at timestamptz   NOT NULL,
    PRIMARY KEY (day, level)
);

CREATE TABLE report.progress (
    batch_id  uuid        NOT NULL REFERENCES report.batch ON DELETE CASCADE,
    taken_at  timestamptz NOT NULL,
    succeeded integer     NOT NULL,
    failed    integer     NOT NULL,
    PRIMARY KEY (batch_id, taken_at)
);

-- What operators have switched off, over the settings of each process.
CREATE TABLE report.switch (
    name  text    PRIMARY KEY,
    is_on boolean NOT NULL
);
