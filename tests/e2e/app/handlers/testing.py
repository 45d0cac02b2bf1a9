"""The command that does nothing but what its behavior says."""

from typing import Any

from commandbus import Command, HandlerContext, handler
from tests.e2e.app.handlers.probabilistic import ProbabilisticHandlers

DOMAIN = "test"
COMMAND_TYPE = "TestCommand"


class TestCommandHandlers(ProbabilisticHandlers):
    """TestCommand of domain `test`: send it together with a behavior (see TestCommandRepository)."""

    __test__ = False  # pytest collects what is called Test…

    @handler(domain=DOMAIN, command_type=COMMAND_TYPE)
    async def handle_test_command(self, command: Command, ctx: HandlerContext) -> dict[str, Any] | None:
        """Return the data of the command."""

        async def work() -> dict[str, Any]:
            return dict(command.data)

        return await self._handle_probabilistic(ctx, await self._get_behavior(ctx), work)
