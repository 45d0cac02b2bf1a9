"""`commandbus stop`: ask workers to end, wherever they run."""

import asyncio

import click

from commandbus._core.connection import Pool
from commandbus.cli.database import dsn_option
from commandbus.cli.failures import Failure, Misuse
from commandbus.cli.output import json_option, print_json, run
from commandbus.status import status
from commandbus.stopping import stop_workers

_LOOK_EVERY = 0.2  # seconds


@click.command(short_help="Ask workers to stop gracefully, wherever they run.")
@click.argument("worker_ids", metavar="[WORKER]...", type=int, nargs=-1)
@click.option("--domain", help="All workers of this domain.")
@click.option("--all", "is_all", is_flag=True, help="All workers of the bus.")
@click.option(
    "--wait",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Wait until they have stopped, and fail when some have not after so many seconds.",
)
@dsn_option
@json_option
def stop(
    worker_ids: tuple[int, ...], domain: str | None, is_all: bool, wait: float | None, dsn: str, as_json: bool
) -> None:
    """Ask workers to stop: those with the ids that `commandbus status` shows, those of a domain, or all.

    Each hears of it with its next heartbeat, 2 seconds later at most: it claims nothing new, lets its running handlers
    end, settles them and gives the rest back. A process ends once all of its workers have, and its supervisor starts
    no other in its place. What somebody else starts again (systemd, Kubernetes) is not meant: stop it there.

    \b
    Examples:
      commandbus stop --domain orders
      commandbus stop --all --wait 60
      commandbus stop 12 13
    """
    if (len(worker_ids) > 0) + (domain is not None) + is_all != 1:
        raise Misuse("say which workers to stop by one of: ids, --domain NAME, --all")

    async def work(pool: Pool) -> list[int]:
        asked = await stop_workers(pool, domain, worker_ids=worker_ids or None)
        if wait is not None and asked:
            await _stopped(pool, set(asked), wait)
        return asked

    asked = run(dsn, work)
    if as_json:
        print_json({"stopping" if wait is None else "stopped": asked})
    elif asked:
        click.echo(f"{'asked to stop' if wait is None else 'stopped'}: {', '.join(f'worker {one}' for one in asked)}")
    else:
        click.echo("no such worker runs")


async def _running(pool: Pool) -> set[int]:
    found = await status(pool, window=1)
    return {worker.worker_id for domain in found.domains for worker in domain.workers if worker.is_alive}


async def _stopped(pool: Pool, asked: set[int], seconds: float) -> None:
    """Wait until none of these workers runs. Raises Failure for those that still do after so many seconds."""
    left = asked
    try:
        async with asyncio.timeout(seconds):
            while left:
                await asyncio.sleep(_LOOK_EVERY)
                left = asked & await _running(pool)
    except TimeoutError:
        listed = ", ".join(map(str, sorted(left)))
        raise Failure(
            f"after {seconds:g} s still not stopped: worker {listed}; their handlers may take longer: wait for them, "
            "or end the processes that `commandbus status` shows"
        ) from None
