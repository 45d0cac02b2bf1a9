"""The routes of process batches and processes; those of load tests are beside, in load.py."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError

from commandbus import BatchMetadata, BatchNotFoundError, InvalidCursorError
from commandbus.process import ProcessMetadata, ProcessStatus
from tests.e2e.app.api import load
from tests.e2e.app.api.schemas import (
    BatchStats,
    ChaosProfile,
    CreationState,
    ExpectedStep,
    Preview,
    PreviewRequest,
    Problem,
    ProcessBatchCreateRequest,
    ProcessBatchCreateResponse,
    ProcessDetail,
    ProcessPage,
    ProcessSummary,
    ProfileName,
    TimelineEntry,
)
from tests.e2e.app.creating import ClientGoneError, TooManyError
from tests.e2e.app.handlers import testing
from tests.e2e.app.models import ProcessStepBehavior
from tests.e2e.app.preview import Expected, expect
from tests.e2e.app.process.statement_report import DOMAIN
from tests.e2e.app.services import Services

FIRST_PROCESSES = 100
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}
TOO_MANY: dict[int | str, dict[str, Any]] = {429: {"model": Problem}}


def router(services: Services) -> APIRouter:
    """Return the routes of the whole API."""
    refused: dict[int | str, dict[str, Any]] = {code: {"model": Problem} for code in (400, 403, 413)}
    api = APIRouter(responses=refused)
    for part in (_batches(services), _processes(services), _profiles(services), load.router(services)):
        api.include_router(part)

    @api.get("/health", tags=["health"])
    async def health() -> dict[str, str]:
        """Tell that the server answers: at once, whatever it is busy with."""
        return {"status": "ok"}

    return api


def _batches(services: Services) -> APIRouter:
    api = APIRouter(tags=["batches"])

    @api.post("/api/processes/batch", status_code=201, responses={**TOO_MANY, 409: {"model": Problem}})
    async def create_process_batch(request: Request, asked: ProcessBatchCreateRequest) -> ProcessBatchCreateResponse:
        """Start many StatementReports as one batch; answers once all of them are stored.

        A client that goes away meanwhile leaves a batch that is marked ABANDONED, and cancelled.
        """
        await check_accounts(services, asked)
        try:
            batch_id = await services.creator.begin(asked.count, asked.name)
            await services.creator.fill(batch_id, asked.count, asked.initial_data(), request.is_disconnected)
        except TooManyError as error:
            raise HTTPException(429, str(error), {"Retry-After": "5"}) from error
        except ClientGoneError as error:  # nobody hears it, but the log of requests does
            raise HTTPException(409, str(error)) from error
        batch = await services.bus.get_batch(DOMAIN, batch_id)
        page = await services.processes.list_processes(batch_id, limit=FIRST_PROCESSES)
        return ProcessBatchCreateResponse(
            batch_id=batch_id,
            batch_status=batch.status,
            total_count=batch.total_count,
            completed_count=batch.completed_count,
            processes=[_summary(one) for one in page.items],
            processes_url=f"{request.scope.get('root_path', '')}/api/batches/{batch_id}/processes",
        )

    @api.get("/api/batches/{batch_id:uuid}", responses=NOT_FOUND)
    async def get_batch(batch_id: UUID) -> BatchStats:
        """Count a batch anew; one that is being made tells how far that is."""
        batch = await find_batch(services, batch_id)
        creation = await services.creator.read(batch_id)
        return _stats(batch, None if creation is None else CreationState.model_validate(creation, from_attributes=True))

    @api.get("/api/batches/{batch_id:uuid}/processes", responses=NOT_FOUND)
    async def list_processes(
        batch_id: UUID,
        status: ProcessStatus | None = None,
        cursor: Annotated[str | None, Query(max_length=200)] = None,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
    ) -> ProcessPage:
        """List a batch's processes, in the order in which they were started."""
        await find_batch(services, batch_id)
        try:
            page = await services.processes.list_processes(batch_id, status, limit=limit, cursor=cursor)
        except InvalidCursorError as error:
            raise field_error("query", "cursor", str(error), cursor) from error
        return ProcessPage(processes=[_summary(one) for one in page.items], next_cursor=page.next_cursor)

    @api.post("/api/processes/preview")
    async def preview(asked: PreviewRequest) -> Preview:
        """Tell how a batch with this behavior is expected to end."""
        return shown(expect(asked.count, asked.behavior, services.max_attempts))

    return api


def _processes(services: Services) -> APIRouter:
    api = APIRouter(tags=["processes"])

    @api.get("/api/processes/{process_id:uuid}", responses=NOT_FOUND)
    async def get_process(process_id: UUID) -> ProcessDetail:
        """Show a process with its timeline and the behavior that applied to each of its commands."""
        process = await services.processes.get(process_id)
        if process is None:
            raise HTTPException(404, f"no process {process_id}")
        trail = await services.processes.get_audit_trail(process_id)
        stored = await services.behaviors.prepare([entry.command_id for entry in trail], [], run=False)
        behavior = process.state.get("behavior") if isinstance(process.state, dict) else None
        return ProcessDetail(
            **_summary(process).model_dump(),
            batch_id=process.batch_id,
            state=process.state,
            behavior=None if behavior is None else ProcessStepBehavior.model_validate(behavior),
            timeline=[
                TimelineEntry(
                    command_id=entry.command_id,
                    step=entry.step,
                    command_type=entry.command_type,
                    status=entry.status,
                    attempts=entry.attempts,
                    sent_at=entry.sent_at,
                    received_at=entry.received_at,
                    completed_at=entry.completed_at,
                    error_code=entry.error_code,
                    error_message=entry.error_message,
                    result=entry.result,
                    behavior=stored.behaviors.get(entry.command_id),
                )
                for entry in trail
            ],
        )

    return api


def _profiles(services: Services) -> APIRouter:
    api = APIRouter(prefix="/api/chaos-profiles", tags=["chaos profiles"])

    @api.get("")
    async def list_profiles() -> list[ChaosProfile]:
        """List the saved chaos profiles."""
        found = await services.profiles.list()
        return [ChaosProfile(name=name, behavior=behavior) for name, behavior in found.items()]

    @api.put("/{name}", responses={409: {"model": Problem}})
    async def save_profile(name: ProfileName, behavior: ProcessStepBehavior) -> ChaosProfile:
        """Save a chaos profile, over one of the same name."""
        if not await services.profiles.save(name, behavior):
            raise HTTPException(409, "there are as many profiles as may be: delete one first")
        return ChaosProfile(name=name, behavior=behavior)

    @api.delete("/{name}", status_code=204, responses=NOT_FOUND)
    async def delete_profile(name: ProfileName) -> None:
        """Delete a chaos profile."""
        if not await services.profiles.delete(name):
            raise HTTPException(404, f"no profile {name}")

    return api


async def find_batch(services: Services, batch_id: UUID) -> BatchMetadata:
    """Return a batch of this application. Raises HTTPException 404."""
    for domain in (DOMAIN, testing.DOMAIN):
        try:
            return await services.bus.get_batch(domain, batch_id)
        except BatchNotFoundError:
            continue
    raise HTTPException(404, f"no batch {batch_id}")


async def check_accounts(services: Services, asked: ProcessBatchCreateRequest) -> None:
    """Refuse accounts that the ledger does not have: every process would fail."""
    unknown = await services.unknown_accounts(asked.account_list)
    if unknown:
        raise field_error("body", "account_list", f"the ledger has no account {', '.join(unknown[:5])}", unknown)


def field_error(part: str, field: str, message: str, given: object) -> RequestValidationError:
    """Make a 422 that names its field, as those of the schema do."""
    return RequestValidationError([{"type": "value_error", "loc": (part, field), "msg": message, "input": given}])


def shown(expected: Expected) -> Preview:
    """What is expected, as the API tells it."""
    return Preview(
        count=expected.count,
        completed=round(expected.completed, 3),
        in_troubleshooting=round(expected.in_troubleshooting, 3),
        canceled=round(expected.canceled, 3),
        retries=round(expected.retries, 3),
        steps=[
            ExpectedStep(
                step=one.step,
                begun=round(one.begun, 3),
                completed=round(one.begun * one.odds.completes, 3),
                in_troubleshooting=round(one.begun * one.odds.parks, 3),
                failed_by_business_rule=round(one.begun * one.odds.business_rule, 3),
                attempts=round(one.begun * one.odds.attempts, 3),
            )
            for one in expected.steps
        ],
    )


def _summary(process: ProcessMetadata) -> ProcessSummary:
    return ProcessSummary.model_validate(process, from_attributes=True)


def _stats(batch: BatchMetadata, creation: CreationState | None) -> BatchStats:
    return BatchStats(
        batch_id=batch.batch_id,
        batch_type=batch.batch_type,
        name=batch.name,
        batch_status=batch.status,
        total_count=batch.total_count,
        completed_count=batch.completed_count,
        failed_count=batch.failed_count,
        canceled_count=batch.canceled_count,
        in_troubleshooting_count=batch.in_troubleshooting_count,
        created_at=batch.created_at,
        started_at=batch.started_at,
        completed_at=batch.completed_at,
        creation=creation,
    )
