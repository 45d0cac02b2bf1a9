"""Run the workers of one process: make them, announce them, stop them on a signal, tell how they died."""

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool

from commandbus._core.connection import Pool
from commandbus.app import App
from commandbus.cli.failures import Failure, Misuse
from commandbus.cli.running import check_database
from commandbus.cli.signals import Signals
from commandbus.cli.supervised import Line
from commandbus.errors import CommandBusError
from commandbus.handler import Middleware
from commandbus.worker import Worker
from commandbus.worker.worker import KEPT_CONNECTIONS

_log = logging.getLogger(__name__)

MiddlewareFactory = Callable[[Pool], Middleware]
_LARGEST_SHARE = 10  # connections for the handlers of one worker: more handlers than that wait for one another
# Linux by itself takes two hours on an idle connection, and a quarter of an hour on one with something under way.
_NOTICING_SILENCE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4, "tcp_user_timeout": 30_000}
_RECONNECT = 4.0  # seconds of the pool's own attempts, each twice as long after the last; asked again, it begins anew
_GIVE_UP = 30.0  # seconds that the other workers get to stop when one died


@dataclass(frozen=True, slots=True)
class Serving:
    """What was asked for; no `domains` means all of the application's, no `pool_size` one that fits.

    `line` is held by a process that is supervised.
    """

    dsn: str
    domains: Sequence[str] = ()
    concurrency: int = 10
    middleware: Sequence[MiddlewareFactory] = ()
    visibility_timeout: float = 30.0
    poll_interval: float = 1.0
    listen: bool = True
    pool_size: int | None = None
    line: Line | None = None


async def serve(app: App, asked: Serving, *, announce: Callable[[str], None]) -> None:
    """Work until a signal. `announce` is called once, when every worker is registered. Raises Failure."""
    await check_database(asked.dsn)
    kwargs: dict[str, Any] = noticing_silence(asked.dsn)
    if not asked.listen:  # a proxy that pools transactions may lose prepared statements as it loses notifications
        kwargs["prepare_threshold"] = None
    # its size is known once the domains are, and those come from managers that were given the pool
    async with AsyncConnectionPool(
        asked.dsn,
        kwargs=kwargs,
        min_size=0,
        max_size=1,
        open=False,
        name="commandbus worker",
        reconnect_timeout=_RECONNECT,
    ) as pool:
        domains = _domains(app, asked, pool)
        size = pool_size(domains, asked)
        await pool.resize(0, size)
        workers = [_worker(app, asked, pool, domain) for domain in domains]
        spare_the_collector()
        what = f"domains: {', '.join(domains)}; concurrency: {asked.concurrency}; pool: {size}; pid: {os.getpid()}"
        await _run(workers, lambda: announce(what), asked.line)


def noticing_silence(dsn: str) -> dict[str, Any]:
    """Return the connection parameters by which TCP notices within half a minute that nobody answers.

    Without those that the connection string gives itself.
    """
    given = conninfo_to_dict(dsn)
    return {name: value for name, value in _NOTICING_SILENCE.items() if name not in given}


def _domains(app: App, asked: Serving, pool: Pool) -> list[str]:
    known = app.domains(pool)
    if not known:
        raise Misuse("the app has no handler and no process; declare one with @app.handler(...)")
    unknown = sorted(set(asked.domains) - known)
    if unknown:
        raise Misuse(f"--domain {unknown[0]}: the app has nothing in it, only in {', '.join(sorted(known))}")
    return sorted(set(asked.domains) or known)


def pool_size(domains: Sequence[str], asked: Serving) -> int:
    """How many connections the pool may have. Raises Failure when --pool-size is too small, with the arithmetic."""
    kept = KEPT_CONNECTIONS * len(domains)
    if asked.pool_size is None:
        return kept + len(domains) * min(asked.concurrency, _LARGEST_SHARE)
    if asked.pool_size <= kept:
        raise Misuse(
            f"--pool-size {asked.pool_size} is too small: {len(domains)} worker(s) ({', '.join(domains)}) keep "
            f"{KEPT_CONNECTIONS} connections each, which is {kept}, and their handlers need at least 1 more: "
            f"give {kept + 1} or more"
        )
    return asked.pool_size


def spare_the_collector() -> None:
    """Let the garbage collector look less often: a claimed batch is thousands of objects that live for a moment.

    What lives for good (modules, the application) is left out of its looks.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


def _worker(app: App, asked: Serving, pool: Pool, domain: str) -> Worker:
    return Worker(
        pool,
        domain=domain,
        handler_registry=app.registry,
        processes=app.processes(pool),
        concurrency=asked.concurrency,
        visibility_timeout=asked.visibility_timeout,
        retry_policy=app.retry_policy,
        poll_interval=asked.poll_interval,
        middleware=[factory(pool) for factory in asked.middleware],
        listen=asked.listen,
    )


def made_by(factory: Callable[[Pool], Any], reference: str, pool: Pool) -> Middleware:
    """Call a middleware's factory. Raises Misuse when it fails or makes something else."""
    try:
        made = factory(pool)
    except Exception as error:  # it is the user's
        raise Misuse(f"--middleware {reference}: the call with the pool failed: {error!r}") from error
    if not isinstance(made, Middleware):
        raise Misuse(f"--middleware {reference} returned a {type(made).__name__}, not a commandbus.Middleware")
    return made


async def _run(workers: Sequence[Worker], announce: Callable[[], None], line: Line | None) -> None:
    """Run the workers until a signal, the supervisor's word, or all were asked to stop; that one dies is a Failure."""
    stopping = asyncio.Event()
    if line is not None:
        line.watch(lambda: _stop(stopping, "the supervisor asks, or has gone"))
    tasks = [asyncio.create_task(w.run(), name=f"commandbus worker {w.domain}") for w in workers]
    ready = asyncio.create_task(_announced(workers, announce))
    asked = asyncio.create_task(stopping.wait())
    with Signals(lambda number: _stop(stopping, number.name), _ending_at_once):
        await _until_the_end(tasks, asked)
        ready.cancel()
        asked.cancel()
        await asyncio.gather(*(w.stop(None if stopping.is_set() else _GIVE_UP) for w in workers))
        ends = await asyncio.gather(*tasks, return_exceptions=True)
    deaths = [end for end in ends if end is not None]
    for death in deaths:
        if not isinstance(death, CommandBusError):
            _log.error("a worker died", exc_info=death)
    if deaths:
        raise Failure(f"a worker died: {type(deaths[0]).__name__}: {deaths[0]}")
    if line is not None and not stopping.is_set():
        line.say_done()


async def _until_the_end(tasks: Sequence[asyncio.Task[None]], asked: asyncio.Task[Any]) -> None:
    """Wait until somebody asks, a worker dies, or all have ended: one that was asked to stop ends alone."""
    running = set(tasks)
    while running and not asked.done():
        done, _ = await asyncio.wait([*running, asked], return_when=asyncio.FIRST_COMPLETED)
        running -= done
        if any(task.cancelled() or task.exception() is not None for task in done):
            return


def _stop(stopping: asyncio.Event, why: str) -> None:
    if not stopping.is_set():
        _log.info("%s: stopping once the running handlers have ended; a second signal ends at once", why)
    stopping.set()


def _ending_at_once(number: signal.Signals) -> None:
    _log.warning("%s again: ending at once; what runs is tried again when its lease has run out", number.name)


async def _announced(workers: Sequence[Worker], announce: Callable[[], None]) -> None:
    for worker in workers:
        await worker.ready.wait()
    announce()
