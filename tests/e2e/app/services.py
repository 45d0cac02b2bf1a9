"""What the routes of the application work with, made once for a pool."""

from dataclasses import dataclass
from typing import Any

from psycopg_pool import AsyncConnectionPool

from commandbus import CommandBus
from commandbus.process.repository import ProcessRepository
from pytest_commandbus.behavior import BehaviorRepository
from tests.e2e.app import ledger
from tests.e2e.app.creating import BatchCreator
from tests.e2e.app.profiles import ChaosProfiles
from tests.e2e.app.stats import LoadStats


@dataclass(frozen=True, slots=True)
class Services:
    """`max_attempts` is that of the workers' retry policy."""

    pool: AsyncConnectionPool[Any]
    bus: CommandBus
    processes: ProcessRepository
    behaviors: BehaviorRepository
    creator: BatchCreator
    profiles: ChaosProfiles
    stats: LoadStats
    max_attempts: int

    @classmethod
    def over(cls, pool: AsyncConnectionPool[Any], max_attempts: int) -> "Services":
        """Make them."""
        return cls(
            pool=pool,
            bus=CommandBus(pool),
            processes=ProcessRepository(pool),
            behaviors=BehaviorRepository(pool),
            creator=BatchCreator(pool),
            profiles=ChaosProfiles(pool),
            stats=LoadStats(pool),
            max_attempts=max_attempts,
        )

    async def unknown_accounts(self, accounts: list[str]) -> list[str]:
        """Return those that the ledger does not have."""
        async with self.pool.connection() as conn:
            return await ledger.unknown_accounts(conn, accounts)
