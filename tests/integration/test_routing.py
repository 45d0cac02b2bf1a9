"""Applications that only route: the replies of their processes come from elsewhere, and are applied once each."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg_pool import AsyncConnectionPool

from commandbus import Worker
from commandbus.errors import SchemaError
from commandbus.process import ProcessCommand, ProcessReplyRouter, ProcessRepository, ProcessStatus
from tests.integration.process_kit import make_manager, open_hand, process_of
from tests.integration.worker_kit import NEVER, PATIENCE, Bench, eventually, open_bench

pytestmark = pytest.mark.asyncio

COUNT = "SELECT count(*) FROM commandbus.reply WHERE reply_to = %s"
LISTENING = "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND query LIKE 'LISTEN %%'"
TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s"


@asynccontextmanager
async def routing(*routers: ProcessReplyRouter, **options: Any) -> AsyncIterator[None]:
    """Run routers while the block runs, then stop them; an error of a router is the test's."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(router.run(stop, **options)) for router in routers]
    try:
        yield
    finally:
        stop.set()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*tasks)


@asynccontextmanager
async def an_application_of_handlers(bench: Bench, *steps: str) -> AsyncIterator[tuple[Bench, Worker]]:
    """Another application, with a domain and a worker of its own, that knows handlers but no process."""
    async with open_bench(bench.dsn) as handling:
        for step in steps:

            @handling.handler(step)
            async def handle(command: Any, context: Any) -> dict[str, Any]:
                return {"step": context.step}

        async with handling.worker(poll_interval=NEVER) as worker:
            yield handling, worker


async def completed(bench: Bench, batch_id: UUID, count: int) -> Sequence[Any]:
    async def look() -> Sequence[Any] | None:
        done = await ProcessRepository(bench.pool).of_batch(batch_id, ProcessStatus.COMPLETED)
        return done if len(done) == count else None

    return await eventually(look, f"{count} completed processes")


async def test_an_application_that_only_routes_takes_its_processes_to_their_end(bench: Bench) -> None:
    async with an_application_of_handlers(bench, "Reserve", "Pay", "Ship") as (handling, _):

        def elsewhere(self: Any, step: str, state: Any) -> ProcessCommand:
            return ProcessCommand(step, {}, domain=handling.domain)

        manager = make_manager(bench, build_command=elsewhere)
        async with routing(ProcessReplyRouter([manager], bench.pool), poll_interval=NEVER):
            batch_id = uuid4()
            await manager.start_many([{"order": n} for n in range(20)], batch_id)
            for process in await completed(bench, batch_id, 20):
                assert process.state["results"] == [{"step": step} for step in ("Reserve", "Pay", "Ship")]
    assert await bench.execute(COUNT, f"process:{manager.process_type}") == [(0,)]


async def test_several_routers_at_once_neither_lose_nor_double(bench: Bench) -> None:
    """Each result is in its process's state once, though four routers and a worker are after the same replies."""
    async with an_application_of_handlers(bench, "Reserve", "Pay", "Ship") as (handling, _):

        def elsewhere(self: Any, step: str, state: Any) -> ProcessCommand:
            return ProcessCommand(step, {}, domain=handling.domain)

        manager = make_manager(bench, build_command=elsewhere)
        routers = [ProcessReplyRouter([manager], bench.pool) for _ in range(4)]
        async with routing(*routers, poll_interval=0.05), bench.worker(processes=[manager]):
            batch_id = uuid4()
            await manager.start_many([{"order": n} for n in range(150)], batch_id, chunk_size=50)
            for process in await completed(bench, batch_id, 150):
                assert process.state["results"] == [{"step": step} for step in ("Reserve", "Pay", "Ship")]


async def test_a_router_outlives_the_loss_of_its_sessions(bench: Bench) -> None:
    manager = make_manager(bench)
    name = f"router-{bench.domain}"
    async with AsyncConnectionPool(
        bench.dsn, min_size=1, max_size=2, open=False, kwargs={"application_name": name}
    ) as pool:
        async with routing(ProcessReplyRouter([manager], pool), poll_interval=0.05):

            async def listens() -> bool | None:
                return bool(await bench.execute(LISTENING, name)) or None

            await eventually(listens, "the router's LISTEN")
            assert len(await bench.execute(TERMINATE, name)) >= 2  # one of the pool's, one that listens
            process_id = await manager.start({})
            async with open_hand(bench) as hand:
                await hand.turn({})

            async def advanced() -> bool | None:
                return (await process_of(bench, process_id)).current_step == "Pay" or None

            await eventually(advanced, "the routed reply")


async def test_a_router_needs_its_pool_and_its_schema(bench: Bench, empty_dsn: str) -> None:
    manager = make_manager(bench)
    with pytest.raises(TypeError, match="needs the pool"):
        await ProcessReplyRouter([manager]).run()
    async with AsyncConnectionPool(empty_dsn, min_size=1, max_size=2, open=False) as pool:
        with pytest.raises(SchemaError, match="commandbus migrate"):
            await ProcessReplyRouter([manager], pool).run()
