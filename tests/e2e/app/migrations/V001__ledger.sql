-- The ledger that the statements are drawn from: 200 accounts, and six transactions a month for each of them from
-- January 2025 to December 2026. Computed, never random, so that every database holds the same figures.
-- Amounts are whole cents; what left the account is negative.

CREATE SCHEMA ledger;

CREATE TABLE ledger.accounts (
    account_id     smallint PRIMARY KEY,
    account_number text     NOT NULL UNIQUE,
    holder         text     NOT NULL
);

CREATE TABLE ledger.transactions (
    account_id   smallint NOT NULL REFERENCES ledger.accounts,
    entry        smallint NOT NULL,          -- which one of its account's on that day, from 0
    posted_on    date     NOT NULL,
    amount_cents integer  NOT NULL,
    category     text     NOT NULL,
    PRIMARY KEY (account_id, posted_on, entry)
);

INSERT INTO ledger.accounts (account_id, account_number, holder)
SELECT n, format('ACC-%s', lpad(n::text, 4, '0')), format('Holder %s', n)
  FROM generate_series(1, 200) AS n;

INSERT INTO ledger.transactions (account_id, entry, posted_on, amount_cents, category)
SELECT account_id, kind.entry, (month + (kind.day + account_id % 5) * interval '1 day')::date,
       kind.sign * (kind.least + (account_id * 7919 + extract(epoch FROM month)::bigint / 86400 * 631 + kind.entry * 104729)
                                 % kind.spread),
       kind.category
  FROM ledger.accounts,
       generate_series(timestamp '2025-01-01', timestamp '2026-12-01', interval '1 month') AS month,
       (VALUES (0,  0,  1, 250000, 150000, 'salary'),
               (1,  2, -1,  90000,  40000, 'rent'),
               (2,  7, -1,   5000,  15000, 'groceries'),
               (3, 12, -1,   4000,   9000, 'utilities'),
               (4, 18, -1,   5000,  18000, 'groceries'),
               (5, 23, -1,   1000,  60000, 'transfer')) AS kind (entry, day, sign, least, spread, category);
