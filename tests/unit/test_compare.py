"""A load report beside an earlier one: what changed, for better or worse, and what of a file is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_commandbus.compare import Change, CompareError, Earlier, read_earlier
from pytest_commandbus.report import FORMAT, as_json
from tests.unit.load_results import result


@pytest.mark.parametrize(
    ("before", "now", "higher_is_better", "verdict"),
    [
        (100, 110, True, "better"),
        (100, 110, False, "worse"),
        (100, 90, True, "worse"),
        (100, 90, False, "better"),
        (100, 100.9, True, "same"),
        (0, 0, False, "same"),
        (0, 5, False, "worse"),
    ],
)
def test_a_change_has_a_direction(before: float, now: float, higher_is_better: bool, verdict: str) -> None:
    change = Change("x", "", before, now, higher_is_better)
    assert change.verdict == verdict
    assert change.absolute == now - before
    assert change.percent == (pytest.approx(100 * (now - before) / before) if before else None)


def test_runs_are_found_by_test_and_number(tmp_path: Path) -> None:
    def of(test: str, run: int, rate: float) -> dict[str, Any]:
        environment = {**result()["environment"], "test": test, "run": run}
        return result(environment=environment, processes_per_second=rate)

    file = tmp_path / "old.json"
    file.write_text(as_json([of("a", 1, 100.0), of("a", 2, 200.0), of("b", 1, 300.0)]))
    earlier = read_earlier(file, FORMAT)
    for test, run, before in (("a", 1, 100), ("a", 2, 200), ("b", 1, 300)):
        comparison = earlier.compare(of(test, run, 400.0))
        assert comparison is not None
        assert (comparison.changes[0].before, comparison.changes[0].now) == (before, 400)
        assert comparison.differing == []
    assert earlier.compare(of("c", 1, 1.0)) is None
    file.write_text(as_json([of("a", 1, 100.0)]))
    assert read_earlier(file, FORMAT).compare(of("a", 1, 1.0)) is not None


def test_what_else_was_not_the_same_is_told() -> None:
    environment = {**result()["environment"], "cpus": 2, "chaos": {"Render": {"fail_transient_pct": 3}}}
    steps = {**result()["steps"], "Query": result()["steps"]["Render"]}
    earlier = Earlier(Path("old.json"), [result(processes=5, steps=steps)])
    comparison = earlier.compare(result(environment=environment))
    assert comparison is not None
    assert comparison.differing == [
        "processes 5 before, 10000 now",
        "another chaos",
        "cpus none before, 2 now",
        "steps of only one of them: Query",
    ]
    assert not [change for change in comparison.changes if change.name.startswith("Query")]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, r"cannot be read: No such file or directory; write one with --cb-report=.*old\.json"),
        ("<html>", r"is no JSON; .* write one with --cb-report="),
        ("[]", r"is not a load report of this plugin, or was cut short; write one with"),
        ('{"seed": 1}', r"is not a load report of this plugin"),
        (json.dumps({"format": FORMAT}), r"is not a load report of this plugin, or was cut short"),
        (json.dumps({"format": FORMAT, "tests": []}), r"is not a load report of this plugin, or was cut short"),
        (json.dumps({**result(), "steps": {"Render": {}}}), r"is not a load report of this plugin, or was cut short"),
        (
            json.dumps({"format": FORMAT + 1}),
            rf"has the format {FORMAT + 1}, .* reads {FORMAT}: run the",
        ),
    ],
)
def test_a_file_that_cannot_be_compared_with_is_told_and_how_to_mend_it(
    tmp_path: Path, text: str | None, problem: str
) -> None:
    file = tmp_path / "old.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(CompareError, match=r"--cb-compare=.*old\.json: " + problem):
        read_earlier(file, FORMAT)
