"""What a success is answered with under chaos, whether its handler returns it or completes in a transaction."""

from contextlib import AbstractAsyncContextManager
from typing import Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from commandbus.blocking import Caller
from commandbus.handler import HandlerContext, Lease, Result

from .chaos import CommandBehavior


def answer(behavior: CommandBehavior, result: Result) -> Result:
    """Return what `behavior` makes of a handler's result."""
    if not behavior.send_response:
        return None
    return result if behavior.response_data is None else {**(result or {}), **behavior.response_data}


class AnsweringLease:
    """An attempt's lease that changes what `complete()` is given; the rest is that of the lease beneath."""

    def __init__(self, beneath: Lease, behavior: CommandBehavior) -> None:
        self._beneath = beneath
        self._behavior = behavior

    @property
    def pool(self) -> AsyncConnectionPool[Any]:
        return self._beneath.pool

    @property
    def calls(self) -> Caller:
        return self._beneath.calls

    async def extend(self, context: HandlerContext, seconds: float) -> None:
        await self._beneath.extend(context, seconds)

    def transaction(self, context: HandlerContext) -> AbstractAsyncContextManager[AsyncConnection[Any]]:
        return self._beneath.transaction(context)

    async def complete(self, context: HandlerContext, result: Result) -> None:
        await self._beneath.complete(context, answer(self._behavior, result))
