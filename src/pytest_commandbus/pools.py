"""Connection pools that open themselves on the loop that first uses them."""

import asyncio
from typing import Any

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

POOL_SIZE = 20


class LazyPool(AsyncConnectionPool[AsyncConnection[Any]]):
    """An AsyncConnectionPool made outside any loop; its first connection opens it on the running one.

    checked: each connection is tried before it is lent, since the server may have gone meanwhile.
    """

    def __init__(self, dsn: str, *, max_size: int = POOL_SIZE, name: str | None = None, checked: bool = False) -> None:
        self._made: list[AsyncConnection[Any]] = []
        self._home_loop: asyncio.AbstractEventLoop | None = None
        super().__init__(
            dsn,
            min_size=0,
            max_size=max_size,
            open=False,
            name=name,
            configure=self._remember,
            check=self.check_connection if checked else None,
        )

    async def getconn(self, timeout: float | None = None) -> AsyncConnection[Any]:
        """Return a connection, opening the pool first if need be. Errors: RuntimeError from another loop."""
        loop = asyncio.get_running_loop()
        if self._home_loop is None:
            self._home_loop = loop
            await self.open()
        elif self._home_loop is not loop:
            raise RuntimeError(
                "cb_pool was first used on another event loop than the one that runs now: give the test and its async "
                'fixtures the same loop_scope, such as @pytest.mark.asyncio(loop_scope="module")'
            )
        return await super().getconn(timeout)

    @property
    def home_loop(self) -> asyncio.AbstractEventLoop | None:
        """The loop that it was first used on, None if it never was."""
        return self._home_loop

    async def end(self) -> None:
        """Close the pool; when its loop is another one than the running one, cut its connections."""
        if self._home_loop in (None, asyncio.get_running_loop()):
            await self.close()
        else:
            self.abandon()

    def abandon(self) -> None:
        """Cut the connections of a pool whose loop is gone or cannot be reached."""
        for connection in self._made:
            connection.pgconn.finish()

    async def _remember(self, connection: AsyncConnection[Any]) -> None:
        self._made.append(connection)
