"""The soak in small, with the counts that each change must pass; and that it notices when the bus has no fence."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.soak.figures import COLUMNS

ROOT = Path(__file__).parents[2]

KEYS = [
    *["commands", "lost", "settled_twice", "double_replies", "worker_kills", "postgres_kills", "terminations"],
    *["zombies", "schedules", "bad_inputs", "violations"],
]
NONE = ["--schedules=0", "--bad-inputs=0", "--worker-kills=0", "--postgres-kills=0", "--terminations=0", "--zombies=0"]


def soak(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run it; returns the exit code, the figures and what it told beside."""
    command = [sys.executable, "-m", "tests.soak", *arguments, "--forget"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_a_soak_ends_with_its_figures() -> None:
    given = [*NONE, "--schedules=5", "--bad-inputs=20", "--commands=0", "--processes=2", "--first=3"]
    code, figures, told = soak(*given)
    assert code == 0, told
    assert list(figures) == KEYS
    assert figures == dict.fromkeys(KEYS, 0) | {"schedules": 5, "bad_inputs": 20}


def test_a_soak_that_finds_something_says_what_and_fails() -> None:
    given = [*NONE, "--schedules=10", "--commands=0", "--processes=1", "--first=0", "--without-fence"]
    code, figures, told = soak(*given)
    assert code == 1
    assert list(figures) == KEYS
    assert figures["violations"] > 0
    assert "replay by: python -m tests.simulator " in told
    assert re.search("^S[345]: ", told, re.MULTILINE)


@pytest.mark.slow
def test_a_campaign_of_faults_loses_and_doubles_nothing() -> None:
    """Schedules have tests of their own."""
    code, figures, told = soak("--column=ci", "--schedules=0", "--seconds=900")
    assert code == 0, told
    assert figures["lost"] == figures["settled_twice"] == figures["double_replies"] == figures["violations"] == 0
    least = COLUMNS["ci"].as_dict() | {"schedules": 0}
    assert {name: count for name, count in figures.items() if count < least[name]} == {}


@pytest.mark.slow
@pytest.mark.soak  # a worker that is stopped in a transaction keeps its locks for 30 s
def test_without_the_fence_a_campaign_fails() -> None:
    code, figures, told = soak(*NONE, "--commands=500", "--zombies=4", "--without-fence")
    assert code == 1
    assert figures["violations"] > 0
    assert "S5" in told
