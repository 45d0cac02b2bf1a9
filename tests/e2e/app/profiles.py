"""Saved chaos profiles: named behaviors that the form offers again."""

from typing import Any

from psycopg.types.json import Json
from psycopg_pool import AsyncConnectionPool

from tests.e2e.app.models import ProcessStepBehavior

MOST = 200
PRESET = "preset:"  # begins the names of those below, which no saved one can have
PRESETS = {
    f"{PRESET}{name}": ProcessStepBehavior.model_validate(behavior)
    for name, behavior in {
        "a flaky query": {"query": {"fail_transient_pct": 30}},
        "fails twice, then works": {step: {"fail_transient_times": 2} for step in ProcessStepBehavior.model_fields},
        "a broken renderer": {"render": {"fail_permanent_pct": 100}},
        "refused by a business rule": {"aggregation": {"fail_business_rule_pct": 25}},
        "slow": {step: {"min_duration_ms": 50, "max_duration_ms": 500} for step in ProcessStepBehavior.model_fields},
    }.items()
}
"""Behaviors that the form offers from the start."""
_SAVE = """
INSERT INTO app.chaos_profile (name, behavior)
SELECT %(name)s, %(behavior)s
 WHERE (SELECT count(*) FROM app.chaos_profile) < %(most)s
    OR EXISTS (SELECT FROM app.chaos_profile WHERE name = %(name)s)
ON CONFLICT (name) DO UPDATE SET behavior = excluded.behavior
RETURNING name
"""
_LIST = "SELECT name, behavior FROM app.chaos_profile ORDER BY name"
_DELETE = "DELETE FROM app.chaos_profile WHERE name = %(name)s RETURNING name"


class ChaosProfiles:
    """The table app.chaos_profile."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self._pool = pool

    async def save(self, name: str, behavior: ProcessStepBehavior) -> bool:
        """Store a profile, over one of the same name; False when there are as many as may be."""
        params = {"name": name, "behavior": Json(behavior.to_dict()), "most": MOST}
        async with self._pool.connection() as conn:
            return await (await conn.execute(_SAVE, params)).fetchone() is not None

    async def list(self) -> dict[str, ProcessStepBehavior]:
        """Return all, by name."""
        async with self._pool.connection() as conn:
            found = await (await conn.execute(_LIST)).fetchall()
        return {name: ProcessStepBehavior.model_validate(behavior) for name, behavior in found}

    async def delete(self, name: str) -> bool:
        """Delete one; False when there is none."""
        async with self._pool.connection() as conn:
            return await (await conn.execute(_DELETE, {"name": name})).fetchone() is not None
