"""The benchmarks hold together: their questions are put, at the smallest sizes, to ours and the floor."""

import json
from pathlib import Path

import pytest

from benchmarks import cost, flat, results
from benchmarks.suite import Sizes, Suite
from benchmarks.systems.ours_waiting import SHORT_BESIDE_LONG

ROOT = Path(__file__).resolve().parents[2]
SIZES = Sizes(
    runs=1,
    long_runs=1,
    processes=30,
    workflows=5,
    commands=40,
    jobs=5,
    singles=5,
    backlog=2_000,
    drained=50,
    waiting=20,
    short=20,
)


@pytest.mark.slow
def test_processes_are_created_done_and_audited_by_ours_and_the_floor() -> None:
    found = Suite(SIZES, peer=None).processes()
    assert set(found) == {"ours", "floor"}
    assert all(run.created > 0 and run.done > 0 for runs in found.values() for run in runs)
    assert found["ours"][0].audited > 0


@pytest.mark.slow
def test_chaos_waiting_and_single_commands_are_measured() -> None:
    suite = Suite(SIZES, peer=None)
    assert [len(run) for run in suite.single()["ours"]] == [SIZES.singles]
    [chaos], [waiting] = suite.held("chaos")["chaos"], suite.waiting(SHORT_BESIDE_LONG)[SHORT_BESIDE_LONG]
    assert chaos.done > 0
    assert waiting.done > 0


@pytest.mark.slow
def test_what_stays_flat_is_measured() -> None:
    claims = flat.claim_ratios(large=SIZES.backlog, small=200)
    assert {name: len(ratios) for name, ratios in claims.items()} == {"backlog": 2, "aside": 2}
    assert Suite(SIZES, peer=None).tenths()[0] > 0
    assert flat.refresh_ms(20, repetitions=1)[0] > 0


def test_a_result_says_where_it_was_made() -> None:
    about = results.place()
    assert {about["server"][name] for name in ("fsync", "synchronous_commit", "full_page_writes")} == {"on"}
    assert about["server"]["data on"]
    assert about["machine"]["cores"] >= 1
    assert any(peer.startswith("pgqueuer") for peer in about["versions"]["peers"])
    assert any("synchronous_commit on" in line for line in results.foot(about))


def test_what_docs_tell_of_scale_is_what_was_measured() -> None:
    kept = json.loads((ROOT / "benchmarks" / "results" / "cost.json").read_text())
    costs = [cost.Cost(**one) for one in kept["costs"]]
    page = (ROOT / "docs" / "explanation" / "scale.md").read_text(encoding="utf-8")
    tables = cost.report(costs, kept["growth"], kept["cores"]).split("\n\n")
    assert len(tables) == 4
    assert [table.splitlines()[0] for table in tables if table not in page] == []
    for one in costs:  # the model is worth its page only while it foretells what is measured
        assert 0.7 < one.done / cost.foretell(costs[0], one.workers, kept["cores"]) < 1.1
