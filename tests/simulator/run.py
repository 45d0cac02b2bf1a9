"""Plays many seeds, one after another, and says which of them broke what."""

import logging
from collections.abc import AsyncIterator, Container, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import psycopg

from commandbus.auditor import Violation, format_violations
from commandbus.migrate import migrate
from tests.simulator.schedule import ACTORS, Schedule
from tests.simulator.stage import SCHEMA, Stage


@dataclass(frozen=True)
class Failure:
    """A seed, and what was broken at its end; its text has the one line that plays it again."""

    seed: int
    violations: list[Violation]

    def __str__(self) -> str:
        return f"replay by: python -m tests.simulator {self.seed}\n{format_violations(self.violations)}"


def prepare(dsn: str) -> None:
    """Make an empty database one for schedules."""
    migrate(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(SCHEMA)


@asynccontextmanager
async def on_stage(dsn: str) -> AsyncIterator[Schedule]:
    """A cast with open connections to a prepared database; what the bus logs of the trouble is not said meanwhile."""
    log = logging.getLogger("commandbus")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        async with Stage(dsn, ACTORS) as stage:
            yield Schedule(stage)
    finally:
        log.setLevel(level)


async def first_failure(
    schedule: Schedule, seeds: Iterable[int], rules: Container[str] | None = None
) -> Failure | None:
    """Play seeds until one breaks an invariant, or makes the bus raise what nobody expects.

    rules: go on until one of these is broken.
    """
    for seed in seeds:
        violations = await schedule.play(seed)
        if any(rules is None or violation.rule in rules for violation in violations):
            return Failure(seed, violations)
    return None
