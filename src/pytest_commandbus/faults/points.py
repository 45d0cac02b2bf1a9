"""The named points that a worker passes with its commands, and what a passage tells. Imports nothing that is heavy."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from commandbus import HandlerContext

POINTS = ("after_claim", "before_handler", "after_handler", "before_settle", "after_settle_before_ack")
"""In the order in which a command passes them; one whose handler completes in a transaction passes after_handler last.

after_claim: leased, nothing started. before_handler, after_handler: around the handler, whatever it does.
before_settle: outcomes are known, the database is not told. after_settle_before_ack: they are recorded, and the worker
does not go on yet.
"""


@dataclass(frozen=True, slots=True)
class Passage:
    """A command at a point, as values. `batch_id` is that of the command or of its process, as `ordinal` is."""

    command_id: str
    domain: str
    command_type: str
    step: str | None
    visit: int
    process_id: str | None
    process_type: str | None
    batch_id: str | None
    ordinal: int | None
    attempt: int
    failures: int
    epoch: int
    data: Mapping[str, Any]

    @classmethod
    def of(cls, context: "HandlerContext") -> "Passage":
        """Take what a handler's context tells."""
        command = context.command
        batch_id = command.batch_id if context.process_id is None else context.process_batch_id
        return cls(
            command_id=str(command.command_id),
            domain=command.domain,
            command_type=command.command_type,
            step=context.step,
            visit=context.visit,
            process_id=None if context.process_id is None else str(context.process_id),
            process_type=context.process_type,
            batch_id=None if batch_id is None else str(batch_id),
            ordinal=context.ordinal,
            attempt=context.attempt,
            failures=context.total_failures,
            epoch=context.epoch,
            data=command.data,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can carry it."""
        return asdict(self)

    @property
    def label(self) -> str:
        """Say in a few words which command this is, the same in every run of the test where that is possible."""
        what = self.step or self.command_type
        if self.ordinal is None:
            return f"{what} {self.command_id}"
        return f"{what} of {'process' if self.process_id is not None else 'command'} {self.ordinal}"
