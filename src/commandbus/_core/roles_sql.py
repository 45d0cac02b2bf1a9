"""Every statement about database roles and what they may do."""

from psycopg import sql


class RolesSQL:
    """Statements that create a role and say its privileges; names are filled in as identifiers."""

    EXISTS = sql.SQL("SELECT FROM pg_catalog.pg_roles WHERE rolname = {name}")
    CREATE = sql.SQL("CREATE ROLE {role} NOLOGIN NOINHERIT")

    # What an earlier version granted and this one does not is taken away.
    START_ANEW = (
        sql.SQL("REVOKE ALL ON ALL TABLES IN SCHEMA commandbus FROM {role}"),
        sql.SQL("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA commandbus FROM {role}"),
        sql.SQL("GRANT USAGE ON SCHEMA commandbus TO {role}"),
        sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA commandbus TO {role}"),
    )
    GRANT_TABLE = sql.SQL("GRANT {privileges} ON {table} TO {role}")
    GRANT_FUNCTIONS = sql.SQL("GRANT EXECUTE ON FUNCTION {functions} TO {role}")
