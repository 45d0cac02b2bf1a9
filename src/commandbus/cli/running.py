"""Run what a command asks of the database: connect, check the schema, stop on a signal, fail in one line."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click
import psycopg
from psycopg_pool import AsyncConnectionPool

from commandbus._core.connection import Pool
from commandbus.cli.database import refused, unreachable
from commandbus.cli.failures import Failure, Misuse, one_line
from commandbus.cli.signals import Signals
from commandbus.errors import CommandBusError, InvalidCursorError, InvalidNameError, InvalidPayloadError
from commandbus.migrate import check_schema

_Result = TypeVar("_Result")


def run(dsn: str, work: Callable[[Pool], Awaitable[_Result]], *, pool_size: int = 2) -> _Result:
    """Return what `await work(pool)` does, with a pool on the database that --dsn says and whose schema fits.

    SIGTERM and Ctrl-C cancel `work` (its statement on the server too); a second one ends the process at once.
    Then the exit code is 128 and the signal's number, as of a process that the signal killed.
    Raises Failure for errors of the bus and of the database, Misuse for input that it refused.
    """
    return asyncio.run(_run(dsn, work, pool_size))


async def _run(dsn: str, work: Callable[[Pool], Awaitable[_Result]], pool_size: int) -> _Result:
    stopped_by: list[signal.Signals] = []
    task = asyncio.ensure_future(_connected(dsn, work, pool_size))

    def stop(number: signal.Signals) -> None:
        stopped_by.append(number)
        task.cancel()

    with Signals(stop):
        try:
            return await task
        except asyncio.CancelledError:
            if not stopped_by:
                raise
    click.echo(f"stopped by {stopped_by[0].name}", err=True)
    raise click.exceptions.Exit(128 + stopped_by[0])


async def _connected(dsn: str, work: Callable[[Pool], Awaitable[_Result]], pool_size: int) -> _Result:
    try:
        await check_database(dsn)
        async with AsyncConnectionPool(
            dsn, min_size=0, max_size=pool_size, open=False, name="commandbus command line"
        ) as pool:
            return await work(pool)
    except (InvalidCursorError, InvalidNameError, InvalidPayloadError) as error:
        raise Misuse(str(error)) from error
    except CommandBusError as error:
        raise Failure(str(error)) from error
    except psycopg.OperationalError as error:
        raise Failure(f"the connection to the database failed: {one_line(error)}; try again") from error
    except psycopg.Error as error:
        raise refused("this", error) from error


async def check_database(dsn: str) -> None:
    """Raise a Failure when the database cannot be reached, or its schema is not the one that this version knows."""
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            await check_schema(conn)
    except CommandBusError as error:
        raise Failure(str(error)) from error
    except psycopg.OperationalError as error:
        raise unreachable(dsn, error) from error
    except psycopg.Error as error:
        raise refused("to show its schema", error) from error
