"""What the benchmarks make of their measurements: the figures' names, the ratios' directions, the goals."""

import pytest

from benchmarks import tables
from benchmarks.harness import Work
from benchmarks.suite import IO_LIMIT, QUICK, Found


def works(*done: float) -> list[Work]:
    return [Work(created=10 * rate, done=rate, audited=0.5) for rate in done]


@pytest.fixture
def found() -> Found:
    return Found(
        QUICK,
        processes={
            "ours": works(8_000, 9_000, 20_000),
            "floor": works(18_000),
            "dbos": works(300),
            "absurd": works(600),
        },
        commands={
            "ours": works(30_000),
            "pgqueuer_asyncpg": works(20_000),
            "pgqueuer_psycopg": works(15_000),
            "oban": works(5_000),
            "procrastinate": works(1_000),
        },
        single={"ours": [[0.002] * 99 + [0.008]], "pgqueuer_asyncpg": [[0.004] * 100]},
        held={"ours": works(9_000), "old_snapshot": works(8_000), "chaos": works(6_000)},
        claims={"backlog": [1.0, 1.1, 9.0], "aside": [1.0]},
        tenths=[0.9],
        refreshed=[20.0],
        oracle=[0.3],
        waiting={"io": works(IO_LIMIT * 0.95), "short": works(1_000), "short-beside-long": works(800)},
    )


def test_figures_are_medians_and_ratios_say_ours_divided_by_theirs(found: Found) -> None:
    figures = tables.figures(found)
    assert set(figures) == {
        "processes_per_second",
        "processes_total_seconds",
        "created_per_second",
        "commands_per_second",
        "send_to_start_ms",
        "ratios",
    }
    assert (figures["processes_per_second"], figures["commands_per_second"]) == (9_000, 30_000)
    assert figures["created_per_second"] == 90_000
    assert figures["processes_total_seconds"] == pytest.approx(100_000 / 90_000 + 100_000 / 9_000)
    assert figures["send_to_start_ms"]["p50"] == pytest.approx(2)
    assert 2 < figures["send_to_start_ms"]["p99"] <= 8
    assert figures["ratios"] == {
        "floor": 0.5,
        "dbos": 30,
        "absurd": 15,
        "pgqueuer_asyncpg": 1.5,
        "pgqueuer_psycopg": 2,
        "procrastinate": 30,
        "oban": 6,
        "latency_p50_pgqueuer": pytest.approx(0.5),
        "backlog_1m": 1.1,
        "old_snapshot": 1.125,
        "chaos": 1.5,
    }


def test_goals_say_what_was_met_missed_and_not_measured(found: Found) -> None:
    del found.commands["pgqueuer_asyncpg"]
    verdicts = {goal.what: goal.met for goal in tables.goals(found)}
    assert verdicts["processes a second / floor"] is False
    assert verdicts["processes a second / fastest durable-workflow peer"] is True
    assert verdicts["commands a second / pgqueuer on asyncpg"] is None
    assert verdicts["commands a second / pgqueuer on psycopg"] is False
    assert verdicts["without / with chaos that draws nothing"] is False
    assert verdicts["without / with an old snapshot held"] is True
    assert verdicts["short commands beside a capped long type / alone"] is True
    assert tables.figures(found)["ratios"]["pgqueuer_asyncpg"] is None


def test_the_report_has_a_row_for_each_system_beside_ours(found: Found) -> None:
    lines = tables.report(found)
    row = next(line for line in lines if line.startswith("absurd "))
    assert row.split() == ["absurd", "6,000", "(6,000", "to", "6,000)", "600", "(600", "to", "600)", "15.00"]
    assert any(line.startswith("ours ") and "9,000 (8,000 to 20,000)" in line for line in lines)
