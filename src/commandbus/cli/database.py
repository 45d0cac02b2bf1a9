"""The database that a command of the command line works on."""

from collections.abc import Callable
from typing import Any

import click
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from commandbus._core.connection import mask_password
from commandbus.cli.failures import Failure, Misuse, one_line

_CONNECT_TIMEOUT = 10  # seconds, unless the DSN has a connect_timeout of its own


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
    return Failure(
        f"cannot connect to the database ({mask_password(dsn)}): {one_line(error)}; "
        "check that it runs, and --dsn, COMMANDBUS_DSN or the PG* variables"
    )
