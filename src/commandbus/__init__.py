"""A command bus on PostgreSQL: commands, retries, replies, batches and process managers."""
