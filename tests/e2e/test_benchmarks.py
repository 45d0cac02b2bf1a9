"""The benchmarks hold together: every question is put, at the smallest sizes, to ours and the floor."""

import json

import pytest

from benchmarks import results, tables
from benchmarks.suite import Sizes, Suite

TINY = Sizes(
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
def test_every_question_is_answered_and_the_figures_have_their_names() -> None:
    found = Suite(TINY, peers=None).measure()

    assert set(found.processes) == {"ours", "floor"}
    assert set(found.held) == {"ours", "old_snapshot", "chaos"}
    systems = [
        runs for asked in (found.processes, found.commands, found.held, found.waiting) for runs in asked.values()
    ]
    works = [run for runs in systems for run in runs]
    assert len(works) == 2 + 1 + 3 + 3
    assert all(run.created > 0 and run.done > 0 for run in works)
    assert [len(run) for run in found.single["ours"]] == [TINY.singles]
    figures = json.loads(json.dumps(tables.figures(found)))
    assert {name for name, ratio in figures["ratios"].items() if ratio is None} == {
        "absurd",
        "dbos",
        "latency_p50_pgqueuer",
        "oban",
        "pgqueuer_asyncpg",
        "pgqueuer_psycopg",
        "procrastinate",
    }
    about = results.place()
    assert (
        about["server"]["fsync"] == about["server"]["synchronous_commit"] == about["server"]["full_page_writes"] == "on"
    )
    text = "\n".join([*tables.report(found), *results.foot(about)])
    assert "synchronous_commit on" in text
    assert "not measured" in text
