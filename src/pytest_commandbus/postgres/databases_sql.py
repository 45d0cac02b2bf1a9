"""Every statement that makes, finds and drops test databases."""

from typing import LiteralString

LOCK: LiteralString = "SELECT pg_advisory_lock(%(key)s)"
LOCK_SHARED: LiteralString = "SELECT pg_advisory_lock_shared(%(key)s)"
TRY_LOCK: LiteralString = "SELECT pg_try_advisory_lock(%(key)s)"
UNLOCK: LiteralString = "SELECT pg_advisory_unlock(%(key)s)"
UNLOCK_SHARED: LiteralString = "SELECT pg_advisory_unlock_shared(%(key)s)"

CREATE: LiteralString = "CREATE DATABASE {name}"
CLONE: LiteralString = "CREATE DATABASE {name} TEMPLATE {template} STRATEGY {strategy}"
SEAL: LiteralString = "ALTER DATABASE {name} WITH IS_TEMPLATE true ALLOW_CONNECTIONS false"
RENAME: LiteralString = "ALTER DATABASE {name} RENAME TO {new_name}"
DROP: LiteralString = "DROP DATABASE IF EXISTS {name} WITH (FORCE)"
MARK: LiteralString = "COMMENT ON DATABASE {name} IS {mark}"

ROLE: LiteralString = "SELECT current_user"

# A template is complete once it is sealed.
IS_SEALED: LiteralString = "SELECT datistemplate FROM pg_database WHERE datname = %(name)s"
MARK_OF: LiteralString = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %(name)s"
# Only those that this role may drop: other roles have their own on a shared server. A clone whose process was killed
# before it could mark it tells its run by its name.
MARKED: LiteralString = """
SELECT datname, mark
FROM (SELECT datname, datdba, coalesce(
          shobj_description(oid, 'pg_database'),
          %(run_mark)s || substring(datname FROM '^cb_([0-9a-z]+)_[0-9a-f]{6}_[0-9]+$')) AS mark
      FROM pg_database WHERE starts_with(datname, 'cb_')) named
WHERE starts_with(mark, %(prefix)s) AND pg_has_role(datdba, 'USAGE')
ORDER BY datname
"""
# What a test may have done to the database from outside its tables, and since when its counters count: cleared by
# a test or lost in a crash (the checkpointer starts anew), they are incomplete.
COUNTING: LiteralString = """
SELECT d.datdba, d.datacl::text, d.datconnlimit,
       (SELECT count(*) FROM pg_db_role_setting WHERE setdatabase = d.oid),
       (SELECT count(*) FROM pg_prepared_xacts WHERE database = d.datname),
       (SELECT count(*) FROM pg_replication_slots WHERE database = d.datname),
       (SELECT backend_start FROM pg_stat_activity WHERE backend_type = 'checkpointer'),
       pg_stat_get_db_stat_reset_time(d.oid)
FROM pg_database d WHERE d.datname = %(name)s
"""
SESSIONS: LiteralString = """
SELECT count(*) FROM pg_stat_activity WHERE datname = %(name)s AND backend_type = 'client backend'
"""
END_SESSIONS: LiteralString = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %(name)s AND backend_type = 'client backend'
"""
