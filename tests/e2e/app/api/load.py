"""The routes of load tests: send commands in bulk, see how they fare, stop the workers."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query

from commandbus import BatchNotFoundError, stop_workers
from commandbus.status import LONGEST_WINDOW
from tests.e2e.app.api.schemas import BulkRequest, BulkResponse, Problem, StopRequest, StopResponse
from tests.e2e.app.bulk import send_bulk
from tests.e2e.app.services import Services
from tests.e2e.app.stats import LoadTestStats, Throughput


def router(services: Services) -> APIRouter:
    """Return the routes under /api/v1."""
    api = APIRouter(prefix="/api/v1", tags=["load tests"])

    @api.post("/commands/bulk", status_code=201)
    async def send_commands(asked: BulkRequest) -> BulkResponse:
        """Send many test commands as one batch, all or none; answers once they are stored."""
        behaviors = asked.behavior_distribution.parts().behaviors(asked.count, asked.delay_ms)
        sent = await send_bulk(services.pool, asked.count, behaviors)
        return BulkResponse(
            created=sent.created,
            generation_time_ms=round(sent.generation_seconds * 1_000, 3),
            queue_time_ms=round(sent.queue_seconds * 1_000, 3),
            batch_id=sent.batch_id,
        )

    @api.get("/stats/throughput")
    async def throughput(window: Annotated[int, Query(ge=1, le=LONGEST_WINDOW)] = 60) -> Throughput:
        """Tell what the workers do, over the last `window` seconds."""
        return await services.stats.throughput(window)

    @api.get("/stats/load-test", responses={404: {"model": Problem}})
    async def load_test(batch_id: UUID | None = None) -> LoadTestStats:
        """Tell how far the newest load test is, or the one named."""
        try:
            return await services.stats.load_test(batch_id)
        except BatchNotFoundError as error:
            raise HTTPException(404, f"no load test {batch_id}") from error

    @api.post("/workers/stop")
    async def stop(asked: StopRequest | None = None) -> StopResponse:
        """Ask workers to stop gracefully: each ends what it has begun, and gives the rest back."""
        asked = asked or StopRequest()
        return StopResponse(stopping=await stop_workers(services.pool, asked.domain, worker_ids=asked.worker_ids))

    return api
