"""`python -m tests.e2e.app`: the application with its workers and its database, until Ctrl-C."""

import asyncio
import random
from pathlib import Path

import click
from psycopg_pool import AsyncConnectionPool

from commandbus.cli.failures import Failure, Misuse, one_line
from commandbus.cli.signals import Signals
from commandbus.web import ConsoleSettings, NotAuthenticatedError, Users, serve
from commandbus.web.settings import LOOPBACK, require_loopback
from pytest_commandbus.postgres.errors import PostgresError
from tests.e2e.app.asgi import TITLE, create_asgi
from tests.e2e.app.database import VARIABLE, open_database, store_seed
from tests.e2e.app.workers import WorkerError, worker_processes

_POOL = 20
_ANY = ("0.0.0.0", "::")  # noqa: S104  addresses that no browser names


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; others need --users.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8080, show_default=True, help="0 takes a free one.")
@click.option("--workers", type=click.IntRange(0), default=2, show_default=True, help="Worker processes to start.")
@click.option("--concurrency", type=click.IntRange(1), default=10, show_default=True, help="Handlers at a time, each.")
@click.option("--seed", type=int, help="What all rolls of chaos depend on.  [default: drawn]")
@click.option(
    "--users",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File of those who may sign in: lines of `commandbus console-password`.",
)
def main(host: str, port: int, workers: int, concurrency: int, seed: int | None, users: Path | None) -> None:
    """Run the StatementReport application: pages, API, and worker processes.

    The database is an embedded PostgreSQL that ends with the application, or `statement_reports` on the server that
    the environment variable CB_POSTGRES names, which stays.
    """
    try:
        settings = ConsoleSettings(
            title=TITLE,
            auth=None if users is None else Users.read(users),
            allowed_hosts=(*LOOPBACK, *([] if host in _ANY else [host])),
        )
        if settings.auth is None:
            require_loopback(host)
        with open_database(is_kept=True) as dsn:
            drawn = random.randrange(2**31) if seed is None else seed
            asyncio.run(_run(dsn, settings, host, port, workers, concurrency, drawn))
    except (NotAuthenticatedError, ValueError) as error:
        raise Misuse(str(error)) from error
    except PostgresError as error:
        raise Failure(f"{VARIABLE}: {error}") from error
    except WorkerError as error:
        raise Failure(str(error)) from error
    except OSError as error:
        raise Failure(f"cannot listen on {host} port {port}: {one_line(error)}; choose another --port") from error


async def _run(
    dsn: str, settings: ConsoleSettings, host: str, port: int, workers: int, concurrency: int, seed: int
) -> None:
    stop = asyncio.Event()

    def say(address: str) -> None:
        click.echo(f"ready: {address}/  ({workers} worker processes, seed {seed}; Ctrl-C ends everything)")

    with Signals(lambda _: stop.set()):
        async with AsyncConnectionPool(dsn, min_size=1, max_size=_POOL, open=False, name=TITLE) as pool:
            await store_seed(pool, seed)
            async with worker_processes(dsn, workers, concurrency):
                await serve(create_asgi(pool, settings), host=host, port=port, stop=stop, on_ready=say)


if __name__ == "__main__":
    main(prog_name="python -m tests.e2e.app")
