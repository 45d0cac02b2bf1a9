"""The database that a command of the command line works on."""

from collections.abc import Callable
from typing import Any

import click
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from commandbus._core.connection import mask_password
from commandbus.cli.failures import Failure, Misuse, one_line

_CONNECT_TIMEOUT = 10  # seconds, unless the DSN has a connect_timeout of its own
_GRANT = (
    "GRANT the user one of the roles that `commandbus migrate --roles` creates (commandbus_operator …), "
    "or connect as another"
)


def dsn_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --dsn; what it does not say comes from libpq's PG* variables."""
    return click.option(
        "--dsn",
        envvar="COMMANDBUS_DSN",
        default="",
        show_envvar=True,
        callback=_checked,
        help="Connection string or URL of the database. What it leaves out comes from PGHOST, PGDATABASE …",
    )(function)


def _checked(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        parts = conninfo_to_dict(value)
    except psycopg.ProgrammingError:  # its message may hold a part of the password
        raise Misuse(
            "--dsn (or COMMANDBUS_DSN) is no connection string; "
            "write postgresql://user@host:5432/name or 'host=… dbname=… user=…'"
        ) from None
    parts.setdefault("connect_timeout", str(_CONNECT_TIMEOUT))
    return make_conninfo("", **parts)


def unreachable(dsn: str, error: psycopg.Error) -> Failure:
    """Say that the database cannot be reached, without the password."""
    parts = conninfo_to_dict(dsn)
    if parts.get("connect_timeout") == str(_CONNECT_TIMEOUT):  # ours: nobody asked for it
        del parts["connect_timeout"]
    named = mask_password(make_conninfo("", **parts)) or "no --dsn was given: libpq's defaults"
    return Failure(
        f"cannot connect to the database ({named}): {one_line(error)}; check that the server runs, that the database "
        "exists and lets this user in, and --dsn, COMMANDBUS_DSN or the PG* variables"
    )


def refused(what: str, error: psycopg.Error, mend_rights: str = _GRANT) -> Failure:
    """Say that the database refused `what`, and how to mend that; `mend_rights` is for a user who lacks a right."""
    mend = "see the server's log"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        mend = mend_rights
    elif isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        mend = "it is a standby, or set to read only: name the primary, or add target_session_attrs=read-write to --dsn"
    return Failure(f"the database refused {what}: {one_line(error)}; {mend}")
