"""What operators do from the command line."""

import asyncio
import time
from typing import Any

from psycopg_pool import AsyncConnectionPool

from . import sql
from .batches import Batches
from .metrics import Metrics
from .rows import fetch, first
from .settings import Settings
from .upkeep import Upkeep

PATIENCE = 60.0  # seconds for what is in flight


async def set_starting(dsn: str, is_on: bool) -> None:
    """Refuse new batches from now on, in every process, or take them again."""
    async with AsyncConnectionPool(dsn, open=False) as pool, pool.connection() as conn:
        await fetch(conn, sql.SWITCH, is_on=is_on)


async def end_all(dsn: str, settings: Settings, patience: float = PATIENCE) -> int:
    """Refuse new batches and end those that run; returns how many had something in flight to the last."""
    await set_starting(dsn, False)
    pool: AsyncConnectionPool[Any]
    async with AsyncConnectionPool(dsn, open=False) as pool:
        metrics = Metrics()
        upkeep = Upkeep(pool, dsn, Batches(pool, settings, metrics), settings, metrics)
        async with pool.connection() as conn:
            await fetch(conn, sql.ASK_ALL_ENDING)
        deadline = time.monotonic() + patience
        while True:
            await upkeep.round()
            async with pool.connection() as conn:
                left = int((await first(conn, sql.OPEN_COUNT) or {})["open"])
            if not left or time.monotonic() >= deadline:
                return left
            await asyncio.sleep(0.5)
