"""The handle of a batch of processes under test."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from commandbus import BatchMetadata
from commandbus.process import BaseProcessManager, ProcessMetadata, ProcessRepository, ProcessStatus

from . import assertions, statements
from .batch_handle import BatchHandle
from .oracle import Prediction
from .timeline import TimelineEntry, read_timeline

if TYPE_CHECKING:
    from .runtime import Runtime


class ProcessBatch(BatchHandle):
    """A batch of processes: what `cb_process_batch` returns."""

    _members = assertions.PROCESSES

    def __init__(
        self,
        runtime: "Runtime",
        manager: BaseProcessManager,
        batch_id: UUID,
        stats: BatchMetadata,
        *,
        ordinals: range,
        number: int,
    ) -> None:
        super().__init__(runtime, manager.domain, batch_id, stats)
        self.manager = manager
        self.ordinals = ordinals
        self.number = number

    async def processes(self, status: ProcessStatus | str | None = None) -> list[ProcessMetadata]:
        """Return the processes of the batch in the order of their ordinals: all, or those of one status."""
        repository = ProcessRepository(self._runtime.pool)
        return await repository.of_batch(self.batch_id, None if status is None else ProcessStatus(status))

    async def timeline(self, process_id: UUID) -> list[TimelineEntry]:
        """Return what happened to a process, oldest first: the audit events of all its commands."""
        return await read_timeline(self._runtime.pool, process_id)

    def predict(
        self, *, path: Sequence[str] | None = None, command_types: Mapping[str, str] | None = None
    ) -> Prediction:
        """Return what chaos makes of every process, worked out without running anything.

        path: the steps in the order in which they run, where that depends on results. command_types: step to command
        type, where a rule is for a command type that is no step's name. Errors: ChaosUsageError.
        """
        return self._runtime.predict(
            self.manager,
            count=len(self.ordinals),
            path=path,
            command_types=command_types,
            batch_number=self.number,
            first_ordinal=self.ordinals.start,
        )

    async def observed(self) -> Prediction:
        """Return what became of every process, in the form of `predict`, to be compared with it."""
        return await self._runtime.observed(self.number)

    async def assert_path(self, process_id: UUID, steps: Iterable[str]) -> None:
        """Assert that a process has sent exactly these steps, in this order; what it sent to undo some does not count.

        steps: named as in chaos rules. Errors: AssertionError, which shows where the paths part, and the timeline;
        pytest.UsageError for a name that is no step's, or a process of another batch.
        """
        __tracebackhide__ = True
        await assertions.check_path(self._runtime, self, process_id, steps)

    async def assert_compensated(self, process_id: UUID, steps: Iterable[str]) -> None:
        """Assert that exactly these steps of a process were undone, in this order: the last one done comes first.

        steps: those that were undone, not those that undo. Errors: as assert_path.
        """
        __tracebackhide__ = True
        await assertions.check_compensated(self._runtime, self, process_id, steps)

    def _stuck_statement(self) -> str:
        return statements.STUCK_PROCESSES
