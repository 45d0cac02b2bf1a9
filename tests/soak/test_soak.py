"""The soak in small, with the counts that each change must pass; and that it notices when the bus has no fence."""

import json
from typing import Any

import pytest

from tests.soak.command import main
from tests.soak.figures import COLUMNS

KEYS = [
    *["commands", "lost", "settled_twice", "double_replies", "worker_kills", "postgres_kills", "terminations"],
    *["zombies", "schedules", "bad_inputs", "violations"],
]
NONE = ["--schedules=0", "--bad-inputs=0", "--worker-kills=0", "--postgres-kills=0", "--terminations=0", "--zombies=0"]


def soak(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run it; returns the exit code, the figures and what it told beside."""
    code = main([*arguments, "--forget"])
    out, told = capfd.readouterr()
    return code, json.loads(out.splitlines()[-1]), told


def test_a_soak_ends_with_its_figures(capfd: pytest.CaptureFixture[str]) -> None:
    given = [*NONE, "--schedules=5", "--bad-inputs=20", "--commands=0", "--processes=2", "--first=3"]
    code, figures, told = soak(capfd, *given)
    assert code == 0, told
    assert list(figures) == KEYS
    assert figures == dict.fromkeys(KEYS, 0) | {"schedules": 5, "bad_inputs": 20}


@pytest.mark.slow
def test_a_campaign_of_faults_loses_and_doubles_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Schedules have tests of their own."""
    code, figures, told = soak(capfd, "--column=ci", "--schedules=0", "--seconds=900")
    assert code == 0, told
    assert figures["lost"] == figures["settled_twice"] == figures["double_replies"] == figures["violations"] == 0
    least = COLUMNS["ci"].as_dict() | {"schedules": 0}
    assert {name: count for name, count in figures.items() if count < least[name]} == {}


@pytest.mark.slow
@pytest.mark.soak  # a worker that is stopped in a transaction keeps its locks for 30 s
def test_without_the_fence_a_campaign_fails(capfd: pytest.CaptureFixture[str]) -> None:
    code, figures, told = soak(capfd, *NONE, "--commands=500", "--zombies=4", "--without-fence")
    assert code == 1
    assert figures["violations"] > 0
    assert "S5" in told
