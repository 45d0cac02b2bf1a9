"""`commandbus metrics`: what Prometheus asks for, over HTTP."""

import asyncio

import click

from commandbus._core.connection import Pool
from commandbus.cli.database import dsn_option
from commandbus.cli.failures import Failure, Misuse
from commandbus.cli.running import run
from commandbus.cli.signals import Signals


@click.command(short_help="Serve the bus's metrics to Prometheus.")
@dsn_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), default=9465, show_default=True, help="Port; 0 for a free one.")
def metrics(dsn: str, host: str, port: int) -> None:
    """Serve the state of the bus at http://HOST:PORT/metrics until SIGTERM or SIGINT.

    One such process is enough for all domains and workers. Each scrape asks the database once, and says
    `commandbus_up 0` when that does not answer. Whoever can reach the port can read the metrics.

    \b
    Examples:
      commandbus metrics
      commandbus metrics --host 10.0.0.5 --port 9465 --dsn postgresql://auditor@db/shop
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server

        from commandbus.metrics import BusCollector
    except ModuleNotFoundError as missing:
        raise Misuse("prometheus-client is not installed: pip install 'pytest-commandbus[prometheus]'") from missing

    async def serve(_: Pool) -> None:
        registry = CollectorRegistry()
        registry.register(BusCollector(dsn))
        try:
            server, _thread = start_http_server(port, host, registry)
        except OSError as error:
            raise Failure(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
        stop = asyncio.Event()
        try:
            with Signals(lambda _: stop.set()):
                click.echo(f"metrics ready: http://{host}:{server.server_port}/metrics", err=True)
                await stop.wait()
        finally:
            server.shutdown()
            server.server_close()

    run(dsn, serve)
