-- What deleting old work needs (see prune.py).
--
-- A batch whose members are many is deleted in several transactions. From the first one on it says so itself: it is
-- final, its counts are those of its end, and no recount can find them any more.

ALTER TABLE commandbus.batch ADD COLUMN pruning boolean NOT NULL DEFAULT false;

-- Old processes are found by it. No update touches created_at, so that a process's steps stay heap-only updates.
CREATE INDEX ix_process_created_at ON commandbus.process (created_at);
