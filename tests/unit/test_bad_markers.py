"""Whatever a marker, a profile or an option says: it means something, or the user is told what would."""

import argparse
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_commandbus.chaos import ChaosUsageError, CommandBehavior
from pytest_commandbus.chaos_rules import ChaosRules
from pytest_commandbus.faults.rules import KINDS as FAULTS
from pytest_commandbus.faults.rules import FaultUsageError, rules_of_marker
from pytest_commandbus.options import LOAD_MAXIMUM, LOAD_MINIMUM, whole_number
from pytest_commandbus.profiles import Profiles
from pytest_commandbus.thresholds import KINDS as THRESHOLDS
from pytest_commandbus.thresholds import problem_with
from tests.json_values import any_texts, anything
from tests.unit.test_chaos_rules import REPORTS

odd = anything | st.integers() | st.floats() | st.sampled_from([10**5_000, -(10**5_000)])
behaviors = odd | st.dictionaries(st.sampled_from(sorted(CommandBehavior.model_fields)) | any_texts, odd, max_size=4)
steps = st.dictionaries(st.sampled_from(["render", "query", "SendMail"]) | any_texts, behaviors, max_size=3)
fields = sorted({field for names in FAULTS.values() for field in names})


def is_refused(call: Callable[[], Any], by: type[BaseException]) -> bool:
    """Whether it raised just this, with words."""
    try:
        call()
    except by as error:
        return bool(str(error))
    return False


@given(steps)
def test_a_chaos_marker_becomes_rules_or_is_refused(said: dict[str, Any]) -> None:
    if not is_refused(lambda: ChaosRules.from_marker(said, REPORTS), ChaosUsageError):
        assert len(ChaosRules.from_marker(said, REPORTS)) == len(said)


@given(
    st.dictionaries(
        st.sampled_from(sorted(FAULTS)) | any_texts,
        odd | st.dictionaries(st.sampled_from(fields) | any_texts, odd, max_size=4),
        max_size=2,
    )
)
def test_a_marker_of_faults_becomes_rules_or_is_refused(said: dict[str, Any]) -> None:
    if not is_refused(lambda: rules_of_marker(said), FaultUsageError):
        assert {rule.kind for rule in rules_of_marker(said)} <= set(FAULTS)


@given(st.sampled_from(sorted(THRESHOLDS)), odd)
def test_a_limit_is_one_or_is_told(name: str, limit: Any) -> None:
    problem = problem_with(name, limit)
    assert problem is None or problem.startswith(f"{name}=")
    if problem is None:
        assert 0 <= limit < float("inf")


@given(any_texts | st.integers().map(str) | st.floats().map(str) | st.just("9" * 5_000))
def test_an_option_s_number_is_in_its_range_or_is_refused(text: str) -> None:
    parse = whole_number("--cb-load", LOAD_MINIMUM, LOAD_MAXIMUM)
    with suppress(argparse.ArgumentTypeError):
        assert LOAD_MINIMUM <= parse(text) <= LOAD_MAXIMUM


@settings(max_examples=50)
@given(
    st.binary(max_size=40)
    | st.builds(
        lambda name, text: f"[tool.commandbus.chaos.{name}]\n{text}".encode("utf-8", "surrogateescape"),
        st.sampled_from(["flaky", '"a b"', "", "é"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
        | st.sampled_from(["render = 1", "render = {}", "render = { fail_transient_pct = inf }", 'render = "\\u0000"']),
    )
)
def test_a_file_of_profiles_is_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pyproject.toml")
        file.write_bytes(content)
        profiles = Profiles(file)
        if not is_refused(lambda: profiles.has("flaky"), pytest.UsageError) and profiles.has("flaky"):
            is_refused(lambda: profiles.get("flaky", "--cb-chaos").behaviors, pytest.UsageError)
