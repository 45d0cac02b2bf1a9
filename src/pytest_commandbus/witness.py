"""Tells the ledger of each handler that runs in the test's own process."""

from collections.abc import Awaitable, Callable

from commandbus.handler import HandlerContext, Middleware, Result

from .ledger import Ledger


class Witness(Middleware):
    """Sees every attempt begin."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def handle(self, context: HandlerContext, call_next: Callable[[], Awaitable[Result]]) -> Result:
        """Note the attempt, and run it."""
        self._ledger.ran(context.command.command_id, context.epoch)
        return await call_next()
