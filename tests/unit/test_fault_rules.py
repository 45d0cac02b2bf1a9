"""Fault rules: what a marker may say, what is told to who writes it wrongly, and rolls that depend on the seed only."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from pytest_commandbus.chaos import RollKey
from pytest_commandbus.faults.active import ActiveRule
from pytest_commandbus.faults.journal import SHOWN, Injection, render
from pytest_commandbus.faults.points import POINTS, Passage
from pytest_commandbus.faults.rules import KINDS, FaultRule, FaultUsageError, is_hit, rule_of, rules_of_marker

PASSAGE = Passage("c0", "orders", "TakePayment", "TakePayment", 1, "p0", "Order", "b0", 0, 1, 0, 1, {"order": 7})


def test_what_is_written_is_what_is_meant() -> None:
    kill, *others = rules_of_marker(
        {
            "kill": {"at": "after_claim", "pct": 20, "domain": "orders", "step": "pay"},
            "terminate": [{"rate": 2, "times": 5}, {"at": "before_settle", "nth": 3}],
            "network": {"latency_ms": 200, "stream": "upstream"},
            "old_snapshot": True,
        }
    )
    assert (kill.kind, kill.at, kill.pct, kill.times, kill.domain, kill.step) == (
        *("kill", "after_claim", 20, None, "orders", "pay"),
    )
    assert [(r.kind, r.rate, r.nth, r.times, r.lasts) for r in others] == [
        ("terminate", 2, None, 5, False),
        ("terminate", None, 3, 1, False),
        ("network", None, None, None, True),
        ("old_snapshot", None, None, None, True),
    ]
    assert others[2].toxics.latency_ms == 200
    assert rule_of("kill", {"at": "after_claim"}, "here").times == 1  # once, unless it is said how often
    assert rule_of("kill", {}, "here").is_once


@pytest.mark.parametrize(
    ("kind", "given", "told"),
    [
        ("kil", {"rate": 1}, "no fault is called 'kil'; did you mean 'kill'? valid are kill, freeze, terminate"),
        ("kill", {"at": "before_setle"}, "no point is called 'before_setle'; did you mean 'before_settle'? valid are"),
        ("kill", {"att": "before_settle"}, "unknown field 'att'; did you mean 'at'? valid are at, nth, pct, times"),
        ("kill", {"at": "before_settle", "latency_ms": 1}, "unknown field 'latency_ms'; valid are at, nth"),
        ("old_snapshot", {"rate": 1}, "unknown field 'rate'; it takes none: it lasts as long as its block"),
        ("kill", {"at": "before_settle", "rate": 1}, "at= and rate= exclude each other"),
        ("kill", {"rate": 1, "pct": 5}, "pct= needs a point, such as at='before_settle'"),
        ("kill", {"rate": 1, "step": "pay"}, "step= needs a point"),
        ("kill", {"times": 3}, "times= needs at= or rate="),
        ("kill", {"at": "before_settle", "nth": 2, "times": 3}, "nth= is one passage; leave out pct= and times="),
        ("kill", {"at": "before_settle", "pct": 101}, "pct=101 is no number above 0 up to 100"),
        ("kill", {"at": "before_settle", "pct": 0}, "pct=0 is no number above 0 up to 100"),
        ("kill", {"rate": "2"}, "rate='2' is no number"),
        ("kill", {"rate": True}, "rate=True is no number"),
        ("kill", {"at": "before_settle", "nth": 0}, "nth=0 is no whole number from 1 up"),
        ("kill", {"at": "before_settle", "where": "ordinal < 5"}, "is no plain function of a passage"),
        ("network", {}, "say what is wrong with the network: one of latency_ms, jitter_ms, timeout_ms"),
        ("network", {"down": 1}, "down=1 is neither True nor False"),
        ("network", {"down": True, "reset_peer": True}, "timeout_ms, reset_peer and down exclude each other"),
        ("network", {"latency_ms": 5, "stream": "up"}, "stream='up'; valid are 'upstream', 'downstream', 'both'"),
        ("network", {"latency_ms": 5, "seconds": 1}, "seconds= needs at= or rate="),
    ],
)
def test_what_says_nothing_valid_is_told_what_would_be(kind: str, given: dict[str, Any], told: str) -> None:
    with pytest.raises(FaultUsageError) as error:
        rule_of(kind, given, "here")
    assert str(error.value).startswith("here: ")
    assert told in str(error.value)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("network", "old_snapshot", "full_disk")])
def test_a_marker_must_say_when(kind: str) -> None:
    with pytest.raises(FaultUsageError, match=f"{kind}=….: say when, such as {kind}="):
        rules_of_marker({kind: {}})
    with pytest.raises(FaultUsageError, match=f"{kind}=….: 5 says nothing; write {kind}="):
        rules_of_marker({kind: 5})


def test_a_percentage_is_rolled_by_seed_rule_point_and_command_alone() -> None:
    rule = FaultRule("kill", at="after_claim", pct=20)
    keys = [f"0|1|0|i{ordinal}|Pay".encode() for ordinal in range(2_000)]

    def hits(seed: int, number: int = 1, rule: FaultRule = rule, before: int = 0) -> set[bytes]:
        return {key for key in keys if is_hit(seed, number, rule, key, before)}

    assert hits(1) == hits(1)
    assert 320 < len(hits(1)) < 480  # 400 expected; the seed is fixed
    others = [hits(2), hits(1, number=2), hits(1, before=1), hits(1, rule=replace(rule, at="before_settle"))]
    assert all(len(hits(1) & other) < 160 for other in others)


@pytest.mark.parametrize("split", [1, 3])
def test_how_often_a_command_is_hit_depends_on_no_order_of_passing(split: int) -> None:
    rule = rule_of("kill", {"at": "before_handler", "pct": 50}, "here")
    active = ActiveRule(rule, 1, 11, {"b0": 1})
    left = [replace(PASSAGE, command_id=f"c{n}", ordinal=n) for n in range(60)]
    hit: Counter[int | None] = Counter()
    while left:  # whoever is hit passes once more, in other company
        group, left = left[:split], left[split:]
        again = active.hit("before_handler", group)
        hit.update(passage.ordinal for passage in again)
        left += again
    keys = {n: RollKey(1, n, "TakePayment", 1, 0).encode() for n in range(60)}
    expected = {n: next(k for k in range(99) if not is_hit(11, 1, rule, key, k)) for n, key in keys.items()}
    assert {n: hit[n] for n in range(60)} == expected


def test_scope_passage_and_number_bound_a_rule() -> None:
    def hits(**given: Any) -> int:
        active = ActiveRule(rule_of("kill", {"at": "before_settle", **given}, "here"), 1, 1, {})
        passages = [replace(PASSAGE, ordinal=n, data={"order": n}) for n in range(5)]
        return sum(bool(active.hit(point, [p])) for p in passages for point in POINTS)

    assert hits() == 1
    assert hits(times=3) == 3
    assert hits(nth=4) == 1
    assert hits(nth=9) == 0
    assert hits(pct=100) == 5
    assert hits(domain="mail", pct=100) == 0
    assert hits(where=lambda passage: passage.data["order"] > 2, pct=100) == 2
    stepped = ActiveRule(
        replace(rule_of("kill", {"at": "before_settle"}, "here"), steps=frozenset({"Other"})), 1, 1, {}
    )
    assert stepped.hit("before_settle", [PASSAGE]) == []


def test_one_that_found_nobody_at_its_passage_comes_at_the_next() -> None:
    active = ActiveRule(rule_of("terminate", {"at": "after_claim", "nth": 2}, "here"), 1, 1, {})
    passages = [replace(PASSAGE, ordinal=n) for n in range(5)]
    assert [bool(active.hit("after_claim", [p])) for p in passages[:3]] == [False, True, False]
    active.give_back()  # its sessions were gone
    assert [bool(active.hit("after_claim", [p])) for p in passages] == [True, False, False, False, False]


def test_what_was_injected_is_told_in_a_line_each() -> None:
    kill = Injection("kill", "before_settle", 1.5, 42, ("Pay of process 0",) * 5)
    crash = Injection("crash_postgres", None, 2.0, None)
    assert str(kill).split("  ")[-1] == "Pay of process 0, Pay of process 0, Pay of process 0 and 2 more"
    text = render([kill] * SHOWN + [crash])
    assert "(1 earlier ones left out)" in text
    assert text.splitlines()[-1].split() == ["+2.00", "s", "crash_postgres"]
    assert PASSAGE.label == "TakePayment of process 0"
    assert replace(PASSAGE, ordinal=None).label == "TakePayment c0"
