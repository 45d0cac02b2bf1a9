"""`commandbus worker`: one process, one asyncio loop, one worker for each domain."""

import asyncio
import logging

import click

from commandbus.app import App
from commandbus.cli.database import dsn_option
from commandbus.cli.failures import Misuse
from commandbus.cli.loading import load, load_app
from commandbus.cli.serving import MiddlewareFactory, Serving, made_by, serve


@click.command(short_help="Run an application's workers until a signal.")
@click.argument("application", metavar="MODULE:APP")
@click.option(
    "--domain", "domains", multiple=True, help="Work for this domain only. Repeatable. [default: all of the app]"
)
@click.option(
    "--concurrency", type=click.IntRange(1), default=10, show_default=True, help="Handlers at a time, a domain."
)
@dsn_option
@click.option(
    "--middleware",
    "middleware",
    multiple=True,
    metavar="MODULE:NAME",
    help="A callable that is given the pool and returns a Middleware. Repeatable; the first is the outermost.",
)
@click.option(
    "--visibility-timeout",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds that a claimed command is leased; a handler may take a little less.",
)
@click.option(
    "--poll-interval",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Seconds after which an idle worker looks by itself.",
)
@click.option(
    "--no-listen", is_flag=True, help="Only poll: for a transaction-pooling proxy, which loses notifications."
)
@click.option(
    "--pool-size", type=click.IntRange(1), help="Connections in the pool. [default: by domains and concurrency]"
)
def worker(
    application: str,
    domains: tuple[str, ...],
    concurrency: int,
    dsn: str,
    middleware: tuple[str, ...],
    visibility_timeout: float,
    poll_interval: float,
    no_listen: bool,
    pool_size: int | None,
) -> None:
    """Work for the domains of the application MODULE:APP until SIGTERM or SIGINT.

    The first signal stops gracefully: nothing new is claimed, running handlers end and are settled, the rest is given
    back. A second one ends the process at once.
    """
    app = load_app(application)
    factories = [_factory(reference) for reference in middleware]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("psycopg.pool").setLevel(logging.WARNING)
    asked = Serving(
        dsn=dsn,
        domains=domains,
        concurrency=concurrency,
        middleware=factories,
        visibility_timeout=visibility_timeout,
        poll_interval=poll_interval,
        listen=not no_listen,
        pool_size=pool_size,
    )
    asyncio.run(_serve(app, asked, application))


async def _serve(app: App, asked: Serving, application: str) -> None:
    await serve(app, asked, announce=lambda text: click.echo(f"worker ready: {application}, {text}", err=True))


def _factory(reference: str) -> MiddlewareFactory:
    factory = load(reference, "--middleware MODULE:NAME")
    if not callable(factory):
        raise Misuse(
            f"--middleware {reference}: a {type(factory).__name__} is not callable; name a factory(pool) -> Middleware"
        )
    return lambda pool: made_by(factory, reference, pool)
