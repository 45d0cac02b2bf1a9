"""What all handlers here share: they look up the behavior of their command, and act by it before they work."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from commandbus import HandlerContext
from pytest_commandbus.behavior import CHAOS, BehaviorRepository, ChaosRun, inject
from pytest_commandbus.chaos import CommandBehavior

Result = dict[str, Any]


class Behavior(NamedTuple):
    """A command's behavior with what its rolls depend on: the run's seed, and the number of the command's batch."""

    behavior: CommandBehavior
    run: ChaosRun
    batch_number: int


class ProbabilisticHandlers:
    """Base of handlers whose commands may carry a behavior of their own. Without one they run untouched."""

    async def _get_behavior(self, ctx: HandlerContext) -> Behavior | None:
        """Return the behavior that is stored for the command, by one query; None when there is none.

        None as well when a worker's chaos middleware has applied it: it reads those of a whole claimed batch at once.
        """
        if CHAOS in ctx.details:
            return None
        command_id, batch_id = ctx.command.command_id, ctx.process_batch_id or ctx.command.batch_id
        prepared = await BehaviorRepository(ctx.pool).prepare([command_id], [batch_id] if batch_id else [], run=True)
        behavior = prepared.behaviors.get(command_id)
        if behavior is None:
            return None
        number = prepared.numbers.get(batch_id, 0) if batch_id else 0
        return Behavior(behavior, prepared.run or ChaosRun(), number)

    async def _handle_probabilistic(
        self, ctx: HandlerContext, behavior: Behavior | None, work: Callable[[], Awaitable[Result]]
    ) -> Result | None:
        """Do the work as the behavior has it: late, failing before it is begun, or untouched when there is none."""
        if behavior is None:
            return await work()
        return await inject(ctx, behavior.behavior, work, run=behavior.run, batch_number=behavior.batch_number)
