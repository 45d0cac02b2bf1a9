"""Every statement about the history of migrations. The runner makes this table itself, before the first migration."""

from typing import LiteralString


class MigrationSQL:
    """Statements of `commandbus.migration`."""

    # One migrator at a time in a database. Held by a transaction of its own, so that it ends with its connection
    # and also holds behind a transaction-pooling proxy, where a lock of a session would stay with the proxy.
    LOCK: LiteralString = "SELECT pg_catalog.pg_advisory_xact_lock(7236182, 0)"

    # The lock's transaction idles while the migrations run, and a migration takes the time that it needs.
    NO_TIMEOUTS: LiteralString = """
        SET LOCAL idle_in_transaction_session_timeout = 0;
        SET LOCAL statement_timeout = 0;
        SET LOCAL lock_timeout = 0;
    """

    # NULL in a database that was never migrated.
    HISTORY_EXISTS: LiteralString = "SELECT pg_catalog.to_regclass('commandbus.migration') IS NOT NULL"

    CREATE_HISTORY: LiteralString = """
        CREATE SCHEMA IF NOT EXISTS commandbus;
        CREATE TABLE IF NOT EXISTS commandbus.migration (
            scope      text        NOT NULL,
            version    bigint      NOT NULL,
            name       text        NOT NULL,
            checksum   text        NOT NULL,
            applied_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
            PRIMARY KEY (scope, version)
        );
    """

    SELECT_APPLIED: LiteralString = """
        SELECT version, name, checksum
        FROM commandbus.migration
        WHERE scope = %(scope)s
        ORDER BY version
    """

    INSERT: LiteralString = """
        INSERT INTO commandbus.migration (scope, version, name, checksum)
        VALUES (%(scope)s, %(version)s, %(name)s, %(checksum)s)
    """
