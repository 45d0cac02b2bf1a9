"""The statements by which assertions look at batches, and at the whole bus."""

# How many members of a batch have each status.
OUTCOMES_OF_PROCESSES = """
    SELECT status, count(*) FROM commandbus.process WHERE batch_id = %(batch_id)s GROUP BY status"""
OUTCOMES_OF_COMMANDS = """
    SELECT status, count(*) FROM commandbus.command_state WHERE batch_id = %(batch_id)s GROUP BY status"""

# The first members of a batch that have a status.
PROCESSES_WITH_STATUS = """
    SELECT process_id FROM commandbus.process
     WHERE batch_id = %(batch_id)s AND status = %(status)s ORDER BY ordinal, process_id LIMIT %(limit)s"""
COMMANDS_WITH_STATUS = """
    SELECT command_id FROM commandbus.command_state
     WHERE batch_id = %(batch_id)s AND status = %(status)s ORDER BY ordinal, command_id LIMIT %(limit)s"""

# Audit events are numbered as they are written: what is sent from now on has a higher number.
LAST_EVENT = """
    SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence('commandbus.event', 'event_id')::regclass), 0)"""

# The commands of one type that were sent after an event, everywhere or by one batch (or its processes), oldest first.
SENT = """
    SELECT c.command_id, c.domain, c.command_type, c.payload::text, e.ts
      FROM commandbus.command c
      JOIN commandbus.event e ON e.command_id = c.command_id AND e.type = 'SENT' AND e.event_id > %(since)s
      LEFT JOIN commandbus.process p ON p.process_id = c.process_id
     WHERE c.command_type = %(command_type)s AND (%(domain)s::text IS NULL OR c.domain = %(domain)s)
       AND (%(batch_id)s::uuid IS NULL OR %(batch_id)s IN (c.batch_id, p.batch_id))
     ORDER BY e.event_id"""

# What was sent instead.
SENT_TYPES = """
    SELECT c.domain, c.command_type, count(*)
      FROM commandbus.command c
      JOIN commandbus.event e ON e.command_id = c.command_id AND e.type = 'SENT' AND e.event_id > %(since)s
      LEFT JOIN commandbus.process p ON p.process_id = c.process_id
     WHERE %(batch_id)s::uuid IS NULL OR %(batch_id)s IN (c.batch_id, p.batch_id)
     GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"""

# Replies that nobody has acknowledged, by address.
REPLIES_LEFT = """
    SELECT r.reply_to, count(*), min(r.command_id::text)::uuid
      FROM commandbus.reply r
      JOIN commandbus.command c ON c.command_id = r.command_id
      LEFT JOIN commandbus.process p ON p.process_id = c.process_id
     WHERE %(batch_id)s::uuid IS NULL OR %(batch_id)s IN (c.batch_id, p.batch_id)
     GROUP BY 1 ORDER BY 2 DESC, 1"""
