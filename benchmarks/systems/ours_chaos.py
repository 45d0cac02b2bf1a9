"""The bus under the plugin's chaos, with a rule for every step that draws no failure."""

import asyncio
from collections.abc import Sequence

from psycopg_pool import AsyncConnectionPool

from benchmarks._trivial import Step
from benchmarks.systems._protocol import main
from benchmarks.systems.ours import Ours
from commandbus import Middleware
from commandbus._core.connection import Pool
from pytest_commandbus.behavior import BehaviorRepository, ChaosInjector, install_e2e
from pytest_commandbus.chaos_rules import ChaosRules, StepNames

SEED = 1


class OursUnderChaos(Ours):
    async def install(self, dsn: str) -> None:
        await super().install(dsn)
        await asyncio.to_thread(install_e2e, dsn)
        rules = ChaosRules.from_marker({step.value: {"fail_transient_pct": 0} for step in Step}, StepNames([Step]))
        async with AsyncConnectionPool(dsn, min_size=1, max_size=1) as pool:
            await BehaviorRepository(pool).store_rules(SEED, rules)

    def middleware(self, pool: Pool) -> Sequence[Middleware]:
        return (ChaosInjector(pool),)


if __name__ == "__main__":
    main(OursUnderChaos())
