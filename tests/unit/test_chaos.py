"""Behaviors and their rolls."""

import itertools
import math
import statistics
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_commandbus.chaos import ChaosUsageError, CommandBehavior, RollKey, behavior_of, roll

PINNED = [
    ("success", 576),
    ("timeout", 0),
    ("success", 496),
    ("permanent", 0),
    ("transient", 0),
    ("transient", 0),
    ("success", 922),
    ("success", 522),
]
KEYS = st.builds(
    RollKey,
    batch=st.integers(0, 99),
    ordinal=st.integers(0, 10**6) | st.uuids().map(str),
    step=st.text(max_size=20),
    visit=st.integers(1, 9),
    failures=st.integers(0, 30),
)
PERCENTAGES = st.floats(0, 100)
BEHAVIORS = st.builds(
    CommandBehavior,
    fail_permanent_pct=PERCENTAGES,
    fail_transient_pct=PERCENTAGES,
    fail_business_rule_pct=PERCENTAGES,
    timeout_pct=PERCENTAGES,
    fail_transient_times=st.integers(0, 5),
)
MANY = [RollKey(1, ordinal, "render", 1, 0) for ordinal in range(20_000)]


@given(seed=st.integers(), key=KEYS, behavior=BEHAVIORS)
def test_the_same_facts_give_the_same_roll(seed: int, key: RollKey, behavior: CommandBehavior) -> None:
    again = CommandBehavior.model_validate_json(behavior.model_dump_json())
    assert roll(seed, RollKey(*key), again) == roll(seed, key, behavior)


@given(one=KEYS, other=KEYS)
def test_two_keys_are_never_encoded_alike(one: RollKey, other: RollKey) -> None:
    assert (one.encode() == other.encode()) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (RollKey(1, 23, "a", 1, 0), RollKey(1, "23", "a", 1, 0)),
        (RollKey(1, "x", "y|z", 1, 0), RollKey(1, "x|y", "z", 1, 0)),
        (RollKey(1, 2, "3", 1, 0), RollKey(1, 23, "", 1, 0)),
        (RollKey(11, 1, "a", 1, 0), RollKey(1, 1, "a", 11, 0)),
    ],
)
def test_neighbouring_keys_are_told_apart(one: RollKey, other: RollKey) -> None:
    assert one.encode() != other.encode()


@given(seed=st.integers(), key=KEYS, behavior=BEHAVIORS)
def test_a_percentage_of_0_never_hits(seed: int, key: RollKey, behavior: CommandBehavior) -> None:
    calm = behavior.model_copy(update={"fail_permanent_pct": 0, "timeout_pct": 0, "fail_transient_times": 0})
    assert roll(seed, key, calm).outcome not in ("permanent", "timeout")
    assert roll(seed, key, CommandBehavior()).outcome == "success"


@given(seed=st.integers(), key=KEYS)
@pytest.mark.parametrize(
    ("pct", "outcome"),
    [
        ("fail_permanent_pct", "permanent"),
        ("fail_transient_pct", "transient"),
        ("fail_business_rule_pct", "business_rule"),
        ("timeout_pct", "timeout"),
    ],
)
def test_a_percentage_of_100_always_hits(pct: str, outcome: str, seed: int, key: RollKey) -> None:
    assert roll(seed, key, CommandBehavior(**{pct: 100})).outcome == outcome  # type: ignore[arg-type]


def test_outcomes_are_rolled_in_their_order() -> None:
    left = {
        "fail_permanent_pct": 100,
        "fail_transient_pct": 100,
        "fail_business_rule_pct": 100,
        "timeout_pct": 100,
    }
    seen = []
    for field in [*left, "none"]:
        seen.append(roll(7, MANY[0], behavior_of(left, "here")).outcome)
        left.pop(field, None)
    assert seen == ["permanent", "transient", "business_rule", "timeout", "success"]


@pytest.mark.parametrize("seed", [0, 1, -1, 2**600, -(2**600)])
def test_any_int_is_a_seed_of_its_own(seed: int) -> None:
    coin = CommandBehavior(fail_permanent_pct=50)
    mine = [roll(seed, key, coin).outcome for key in MANY[:200]]
    for other in (seed + 1, -seed - 7, seed * 256 + 3):
        assert mine != [roll(other, key, coin).outcome for key in MANY[:200]]


@given(st.integers(0, 2**64), st.integers(0, 5), st.integers(0, 10))
def test_the_first_n_attempts_fail_for_certain(seed: int, times: int, failures: int) -> None:
    rolled = roll(seed, RollKey(1, 1, "render", 1, failures), CommandBehavior(fail_transient_times=times))
    assert rolled.outcome == ("transient" if failures < times else "success")


def test_percentages_are_shares_of_the_attempts_that_got_as_far() -> None:
    behavior = CommandBehavior(fail_permanent_pct=10, fail_transient_pct=20, fail_business_rule_pct=30, timeout_pct=40)
    counted = Counter(roll(42, key, behavior).outcome for key in MANY)
    expected = {
        "permanent": 0.1,
        "transient": 0.9 * 0.2,
        "business_rule": 0.9 * 0.8 * 0.3,
        "timeout": 0.9 * 0.8 * 0.7 * 0.4,
        "success": 0.9 * 0.8 * 0.7 * 0.6,
    }
    for outcome, share in expected.items():
        four_deviations = 4 * math.sqrt(share * (1 - share) / len(MANY))
        assert counted[outcome] / len(MANY) == pytest.approx(share, abs=four_deviations)


@pytest.mark.parametrize(
    "vary",
    [
        lambda n: RollKey(n, 5, "render", 1, 0),
        lambda n: RollKey(1, n, "render", 1, 0),
        lambda n: RollKey(1, 5, f"render{n}", 1, 0),
        lambda n: RollKey(1, 5, "render", n, 0),
        lambda n: RollKey(1, 5, "render", 1, n),
    ],
)
def test_neighbours_in_any_one_fact_are_independent(vary: Any) -> None:
    coin = CommandBehavior(fail_permanent_pct=50)
    hits = [roll(3, vary(n), coin).outcome == "permanent" for n in range(4_001)]
    both = Counter(itertools.pairwise(hits))
    for pair in [(True, True), (True, False), (False, True), (False, False)]:
        assert both[pair] / 4_000 == pytest.approx(0.25, abs=0.04)


def test_one_outcome_does_not_foretell_another() -> None:
    """Behaviors that differ in one percentage roll the rest alike, and a hit of one is no hint of the next."""
    low, high = CommandBehavior(fail_permanent_pct=30), CommandBehavior(fail_permanent_pct=30, timeout_pct=50)
    assert [roll(5, k, low).outcome == "permanent" for k in MANY[:500]] == [
        roll(5, k, high).outcome == "permanent" for k in MANY[:500]
    ]
    timeouts = Counter(
        roll(5, k, CommandBehavior(timeout_pct=50)).outcome for k in MANY if roll(5, k, low).outcome == "permanent"
    )
    assert timeouts["timeout"] / timeouts.total() == pytest.approx(0.5, abs=0.03)


def test_durations_are_normal_and_clamped() -> None:
    behavior = CommandBehavior(min_duration_ms=1_000, max_duration_ms=7_000)
    drawn = [roll(11, key, behavior).duration_ms for key in MANY]
    assert min(drawn) >= 1_000
    assert max(drawn) <= 7_000
    assert statistics.fmean(drawn) == pytest.approx(4_000, abs=40)
    assert statistics.stdev(drawn) == pytest.approx(1_000, rel=0.03)
    within = sum(3_000 <= d <= 5_000 for d in drawn) / len(drawn)
    assert within == pytest.approx(0.6827, abs=0.015)


@given(st.integers(), st.integers(0, 10_000), st.integers(0, 10_000))
def test_a_duration_stays_in_its_range(seed: int, one: int, other: int) -> None:
    least, most = sorted((one, other))
    rolled = roll(seed, MANY[0], CommandBehavior(min_duration_ms=least, max_duration_ms=most))
    assert least <= rolled.duration_ms <= most


def test_rolls_of_a_released_version_stay_what_they_were() -> None:
    """A seed in a bug report must still reproduce it: these change only with a note in the changelog."""
    behavior = CommandBehavior(
        fail_permanent_pct=20, fail_transient_pct=20, timeout_pct=20, min_duration_ms=0, max_duration_ms=1_000
    )
    rolled = [roll(2026, RollKey(1, n, "StatementRender", 1, 0), behavior) for n in range(8)]
    assert [(r.outcome, r.duration_ms) for r in rolled] == PINNED


def test_failures_carry_the_code_and_message_of_the_behavior() -> None:
    rolled = roll(1, MANY[0], CommandBehavior(fail_permanent_pct=100, error_code="NO_DISK", error_message="disk full"))
    assert (rolled.error_code, rolled.error_message) == ("NO_DISK", "disk full")
    rolled = roll(1, MANY[0], CommandBehavior(fail_business_rule_pct=100))
    assert (rolled.error_code, rolled.error_message) == (
        "CHAOS_BUSINESS_RULE",
        "chaos: injected business rule failure",
    )
    assert roll(1, MANY[0], CommandBehavior(timeout_pct=100, error_code="NO_DISK")).error_code == "TIMEOUT"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"fail_permanent_pct": 101}, "fail_permanent_pct=101 is no percentage from 0 to 100"),
        ({"timeout_pct": -0.1}, "timeout_pct=-0.1 is no percentage from 0 to 100"),
        ({"fail_transient_pct": math.nan}, "fail_transient_pct=nan is no percentage from 0 to 100"),
        ({"fail_permanent_pct": True}, "fail_permanent_pct=True is no percentage from 0 to 100"),
        ({"fail_transient_times": True}, "fail_transient_times=True: a number is needed"),
        ({"response_data": {"seen": {1}}}, "response_data must be what JSON can hold, as a handler's result: "),
        ({"fail_transient_pct": "many"}, "fail_transient_pct='many' is no percentage from 0 to 100"),
        ({"fail_pct": 1}, "unknown field 'fail_pct'; the fields are fail_permanent_pct, fail_transient_pct"),
        ({"min_duration_ms": 9, "max_duration_ms": 3}, "min_duration_ms=9 is above max_duration_ms=3"),
        ({"fail_transient_times": -1}, "fail_transient_times=-1: input should be greater than or equal to 0"),
        (30, "a behavior is a dict of fail_permanent_pct"),
    ],
)
def test_a_wrong_behavior_is_told_what_would_be_valid(given: Any, message: str) -> None:
    with pytest.raises(ChaosUsageError) as caught:
        behavior_of(given, "chaos(render=…)")
    assert str(caught.value).startswith("chaos(render=…): ")
    assert message in str(caught.value)
