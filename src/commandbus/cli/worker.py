"""`commandbus worker`: in each process one asyncio loop, with one worker for each domain."""

import asyncio
import logging
import os
import sys
from collections.abc import Sequence

import click

from commandbus.app import App
from commandbus.cli.database import dsn_option
from commandbus.cli.failures import Misuse
from commandbus.cli.loading import load, load_app
from commandbus.cli.logs import log_format_option, set_up_logging
from commandbus.cli.serving import MiddlewareFactory, Serving, made_by, serve
from commandbus.cli.supervised import Line
from commandbus.cli.supervising import Supervisor

_log = logging.getLogger(__name__)


@click.command(short_help="Run an application's workers until a signal.")
@click.argument("application", metavar="MODULE:APP")
@click.option(
    "--domain", "domains", multiple=True, help="Work for this domain only. Repeatable. [default: all of the app]"
)
@click.option(
    "--concurrency", type=click.IntRange(1), default=10, show_default=True, help="Handlers at a time, a domain."
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Worker processes. From 2 on this one supervises them, and starts again those that die.",
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
@log_format_option
@click.option("--supervised", "descriptor", type=int, hidden=True)
def worker(
    application: str,
    domains: tuple[str, ...],
    concurrency: int,
    processes: int,
    dsn: str,
    middleware: tuple[str, ...],
    visibility_timeout: float,
    poll_interval: float,
    no_listen: bool,
    pool_size: int | None,
    log_format: str,
    descriptor: int | None,
) -> None:
    """Work for the domains of the application MODULE:APP until SIGTERM or SIGINT.

    The first signal stops gracefully: nothing new is claimed, running handlers end and are settled, the rest is given
    back. A second one ends the process at once.

    With --processes N this process supervises N others: it tells which one started or ended and why, starts those
    again that die (after 0.5 s, then twice as long each time, up to a minute), and gives up only when they cannot even
    start. A supervised process that gets SIGTERM itself stops gracefully, and another takes its place.

    \b
    Examples:
      commandbus worker shop.main:app
      commandbus worker shop.main:app --domain orders --concurrency 50
      commandbus worker shop.main:app --processes 4 --dsn postgresql://shop@db/shop
    """
    line = None if descriptor is None else Line(descriptor)
    outermost = set_up_logging(log_format)
    if processes > 1:
        options = {
            "--domain": domains,
            "--concurrency": [concurrency],
            "--middleware": middleware,
            "--visibility-timeout": [visibility_timeout],
            "--poll-interval": [poll_interval],
            "--pool-size": [] if pool_size is None else [pool_size],
            "--log-format": [log_format],
        }
        arguments = [application, *(f"{name}={value}" for name, values in options.items() for value in values)]
        sys.exit(asyncio.run(_supervise(arguments + ["--no-listen"] * no_listen, processes, dsn)))
    app = load_app(application)
    factories = [_factory(reference) for reference in middleware]
    asked = Serving(
        dsn=dsn,
        domains=domains,
        concurrency=concurrency,
        middleware=[*outermost, *factories],
        visibility_timeout=visibility_timeout,
        poll_interval=poll_interval,
        listen=not no_listen,
        pool_size=pool_size,
        line=line,
    )
    asyncio.run(_serve(app, asked, application))


async def _serve(app: App, asked: Serving, application: str) -> None:
    def announce(text: str) -> None:
        if asked.line is None:
            click.echo(f"worker ready: {application}, {text}", err=True)
            return
        _log.info("ready: %s, %s", application, text)
        asked.line.say_ready()

    await serve(app, asked, announce=announce)


async def _supervise(arguments: Sequence[str], processes: int, dsn: str) -> int:
    def announce(pids: Sequence[int]) -> None:
        told = ", ".join(map(str, pids))
        click.echo(f"worker ready: {arguments[0]}, processes: {processes}; pids: {told}; pid: {os.getpid()}", err=True)

    command = [sys.executable, "-m", "commandbus", "worker", *arguments]
    # by the environment: everybody can read a command line, and the DSN may have a password
    return await Supervisor(command, processes, announce, {**os.environ, "COMMANDBUS_DSN": dsn}).run()


def _factory(reference: str) -> MiddlewareFactory:
    factory = load(reference, "--middleware MODULE:NAME")
    if not callable(factory):
        raise Misuse(
            f"--middleware {reference}: a {type(factory).__name__} is not callable; name a factory(pool) -> Middleware"
        )
    return lambda pool: made_by(factory, reference, pool)
