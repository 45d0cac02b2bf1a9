"""The soak shares seeds among processes, and ends with its figures as one JSON line."""

import json

import pytest

from tests import soak


def test_a_soak_ends_with_its_figures(capfd: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--schedules", "5", "--first", "3", "--processes", "2", "--forget"]) == 0
    last = capfd.readouterr().out.splitlines()[-1]
    assert json.loads(last) == {"schedules": 5, "violations": 0, "first_seed": 3}
