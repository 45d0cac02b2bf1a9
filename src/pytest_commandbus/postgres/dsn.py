"""Connection strings that do not show their password."""

from .errors import PostgresError

_SECRETS = ("password", "sslpassword")


class Dsn(str):
    """A connection string whose repr (in tracebacks, reports, assertion messages) masks the password."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{masked(self)}'"


def masked(dsn: str) -> str:
    """Return the connection string with *** for its passwords."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.Error:
        return "***"
    return make_conninfo("", **{key: "***" if key in _SECRETS else value for key, value in parts.items()})


def without_password(dsn: str) -> str:
    """Return the connection string without its passwords; unchanged when it has none, *** when it is none."""
    import psycopg
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.Error:
        return "***"
    if not any(key in parts for key in _SECRETS):
        return dsn
    return make_conninfo("", **{key: value for key, value in parts.items() if key not in _SECRETS})


def with_database(dsn: str, database: str) -> Dsn:
    """Return the connection string for another database of the same server. Errors: PostgresError when it is none."""
    import psycopg
    from psycopg.conninfo import make_conninfo

    try:
        return Dsn(make_conninfo(dsn, dbname=database))
    except psycopg.Error:
        # The driver's message may quote the string, password and all.
        raise PostgresError(
            "this is no connection string: write postgresql://user@host/database, or host=..."
        ) from None
