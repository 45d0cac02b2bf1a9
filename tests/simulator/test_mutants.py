"""The audit itself is proven: every defect that is planted in a copy of the bus is caught, and named."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.simulator.mutants import MUTANTS
from tests.simulator.planting import FUNCTION, Mutant
from tests.simulator.run import first_failure, on_stage
from tests.simulator.schedule import Schedule

DOCUMENT = Path(__file__).parents[2] / "docs" / "explanation" / "how-it-is-tested.md"
SEEDS = Path(__file__).with_name("mutant_seeds.txt")
MOST_SEEDS = 2_000


def test_there_are_enough_of_them() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 40


def test_the_documentation_lists_them() -> None:
    rows = [f"| {m.name} | `{m.place}` | {', '.join(m.rules)} |" for m in MUTANTS]
    _, _, chapter = DOCUMENT.read_text(encoding="utf-8").partition("\n## The mutants\n")
    listed = [line for line in chapter.splitlines() if line.startswith("| ")]
    assert listed[2:] == rows, "bring docs/explanation/how-it-is-tested.md up to date"


@pytest.mark.asyncio
async def test_every_mutant_can_be_planted_and_leaves_nothing(prepared_dsn: str) -> None:
    async with on_stage(prepared_dsn) as schedule:
        conn = schedule.stage.conn
        for mutant in MUTANTS:
            sound = await schedule.stage.rows(FUNCTION, mutant.where) if isinstance(mutant.where, str) else None
            async with mutant.planted(conn):
                pass
            if sound is not None:
                assert await schedule.stage.rows(FUNCTION, mutant.where) == sound
        assert await first_failure(schedule, range(3)) is None


@pytest.mark.asyncio
async def test_a_mutant_whose_place_has_changed_fails_loudly(prepared_dsn: str) -> None:
    gone = Mutant("gone", ("S5",), "settle", "what nobody wrote", "")
    async with on_stage(prepared_dsn) as schedule:
        with pytest.raises(LookupError, match=r"commandbus\.settle\(\) has 0 places that read 'what nobody wrote'"):
            async with gone.planted(schedule.stage.conn):
                pass


def known_seeds() -> dict[str, int]:
    """The seed that shows each mutant, by the mutant's name."""
    rows = [line.split(None, 1) for line in SEEDS.read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    return {name: int(seed) for seed, name in rows}


@pytest.mark.asyncio
async def test_every_mutant_is_caught(prepared_dsn: str, record_property: Callable[[str, object], None]) -> None:
    """By the seed that is known to show it; only where it does so no more, another is looked for."""
    known = known_seeds()
    assert known.keys() == {mutant.name for mutant in MUTANTS}, f"bring {SEEDS.name} up to date"
    async with on_stage(prepared_dsn) as schedule:
        for mutant in MUTANTS:
            await is_caught(schedule, mutant, (known[mutant.name], *range(MOST_SEEDS)), record_property)


@pytest.mark.soak
@pytest.mark.slow
@pytest.mark.asyncio
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
async def test_a_mutant_is_caught_by_any_seeds(
    mutant: Mutant, prepared_dsn: str, record_property: Callable[[str, object], None]
) -> None:
    async with on_stage(prepared_dsn) as schedule:
        await is_caught(schedule, mutant, range(MOST_SEEDS), record_property)


async def is_caught(
    schedule: Schedule, mutant: Mutant, seeds: Sequence[int], record_property: Callable[[str, object], None]
) -> None:
    """Play until the audit names the mutant by a rule that fits; the report tells by which, and which seed it took."""
    async with mutant.planted(schedule.stage.conn):
        failure = await first_failure(schedule, seeds, mutant.rules)
    assert failure is not None, f"{mutant.name} ({mutant.place}) was not noticed in {MOST_SEEDS} schedules"
    named = sorted({violation.rule for violation in failure.violations} & set(mutant.rules))
    record_property("mutant", (mutant.name, mutant.place, " ".join(named), failure.seed))
