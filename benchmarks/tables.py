"""What was found, as figures and as text. Nothing here measures."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness import Work
from benchmarks.suite import IO_LIMIT, SHARE_LEFT, Found
from benchmarks.systems.ours_waiting import IO, SHORT, SHORT_BESIDE_LONG

PEERS = ("floor", "dbos", "absurd", "pgqueuer_asyncpg", "pgqueuer_psycopg", "procrastinate", "oban")
TOTAL = 100_000  # processes that processes_total_seconds is for, whatever number was measured


def figures(found: Found) -> dict[str, Any]:
    """The figures that others may rely on: medians of the repetitions; null for a peer that did not run."""
    ours = found.processes["ours"]
    waits = {name: _quantiles(runs) for name, runs in found.single.items()}
    theirs = waits.get("pgqueuer_asyncpg")
    ratios: dict[str, float | None] = dict.fromkeys(PEERS)
    for runs in (found.processes, found.commands):
        ratios |= {name: _rate(runs["ours"]) / _rate(those) for name, those in runs.items() if name != "ours"}
    plain = _rate(found.held["ours"])
    ratios |= {
        "latency_p50_pgqueuer": waits["ours"]["p50"] / theirs["p50"] if theirs else None,
        "backlog_1m": statistics.median(found.claims["backlog"]),
        "old_snapshot": plain / _rate(found.held["old_snapshot"]),
        "chaos": plain / _rate(found.held["chaos"]),
    }
    return {
        "processes_per_second": _rate(ours),
        "processes_total_seconds": statistics.median(_total(run) for run in ours),
        "created_per_second": statistics.median(run.created for run in ours),
        "commands_per_second": _rate(found.commands["ours"]),
        "send_to_start_ms": waits["ours"],
        "ratios": ratios,
    }


@dataclass(frozen=True)
class Goal:
    """A goal and what was measured; `met` is None when it could not be."""

    what: str
    value: float | None
    limit: float
    is_least: bool = True  # else the limit is the most

    @property
    def met(self) -> bool | None:
        """Whether it was reached."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.is_least else self.value <= self.limit


def goals(found: Found) -> list[Goal]:
    """The goals, beside what was found."""
    known = figures(found)
    ratios = known["ratios"]
    workflows = [ratios[name] for name in ("dbos", "absurd") if ratios[name] is not None]
    theirs = found.single.get("pgqueuer_asyncpg")
    late = known["send_to_start_ms"]["p99"] / _quantiles(theirs)["p99"] if theirs else None
    sent = statistics.median(run.created for run in found.commands["ours"])
    short = _rate(found.waiting[SHORT_BESIDE_LONG]) / _rate(found.waiting[SHORT])
    return [
        Goal(
            f"seconds for {TOTAL:,} processes, created and done", known["processes_total_seconds"], 10, is_least=False
        ),
        Goal("processes a second / floor", ratios["floor"], 0.6),
        Goal("processes a second / fastest durable-workflow peer", min(workflows, default=None), 15),
        Goal("commands a second / pgqueuer on asyncpg", ratios["pgqueuer_asyncpg"], 1.5),
        Goal("commands a second / pgqueuer on psycopg", ratios["pgqueuer_psycopg"], 3),
        Goal("processes created a second", known["created_per_second"], 50_000),
        Goal("commands sent a second", sent, 50_000),
        Goal("send to start, median / pgqueuer's", ratios["latency_p50_pgqueuer"], 0.6, is_least=False),
        Goal("send to start, p99 / pgqueuer's", late, 1, is_least=False),
        Goal("claim time, large backlog / 10,000", ratios["backlog_1m"], 1.2, is_least=False),
        Goal("claim time, beside waiting and parked / without", statistics.median(found.claims["aside"]), 1.2, False),
        Goal("last tenth of a drain / first", statistics.median(found.tenths), 0.8),
        Goal("without / with an old snapshot held", ratios["old_snapshot"], 1 / 0.8, is_least=False),
        Goal("without / with chaos that draws nothing", ratios["chaos"], 1 / 0.7, is_least=False),
        Goal("commands that wait 100 ms, a second", _rate(found.waiting[IO]), 0.9 * IO_LIMIT),
        Goal("short commands beside a capped long type / alone", short, SHARE_LEFT),
    ]


def report(found: Found) -> list[str]:
    """All tables, as lines."""
    sizes = found.sizes
    waits = [
        [name, spread([_quantile(run, 50) for run in runs], 2), spread([_quantile(run, 99) for run in runs], 2)]
        for name, runs in found.single.items()
    ]
    flat = [
        [
            f"claim: backlog {sizes.backlog:,} / {min(10_000, sizes.backlog // 10):,}",
            spread(found.claims["backlog"], 2),
        ],
        [
            f"claim: beside {sizes.backlog // 10:,} waiting and as many parked / without",
            spread(found.claims["aside"], 2),
        ],
        [f"draining {sizes.drained:,}: rate of the last tenth / first", spread(found.tenths, 2)],
        [f"recount of a batch of {min(100_000, sizes.processes):,}, half done, ms", spread(found.refreshed, 1)],
        [f"prediction of {min(10_000, sizes.processes):,} processes under chaos, s", spread(found.oracle, 2)],
    ]
    ours = found.processes["ours"]
    total = [
        [f"created and done, for {TOTAL:,}", spread([_total(run) for run in ours], 1)],
        [f"the auditor over {sizes.processes:,}", spread([run.audited for run in ours], 1)],
    ]
    rated = [[name, spread([run.done for run in runs])] for name, runs in found.waiting.items()]
    aims = [[goal.what, _number(goal.value), _limit(goal), _verdict(goal)] for goal in goals(found)]
    return [
        *_work_table("three-step processes, 2 worker processes", found.processes),
        *table("three-step processes, ours, seconds", ("what", "median (least to most)"), total),
        *_work_table("commands, 2 worker processes", found.commands),
        *table("one command to an idle worker, send to handler start, ms", ("system", "p50", "p99"), waits),
        *_work_table(
            "three-step processes, plain, with an old snapshot held, under chaos that draws nothing", found.held
        ),
        *table("what stays flat", ("what", "median (least to most)"), flat),
        *table("handlers that wait, 2 worker processes", ("what", "done a second"), rated),
        *table("goals", ("what", "found", "goal", ""), aims),
    ]


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of one table."""
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    laid = [columns, ["-" * width for width in widths], *rows]
    cells = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in laid)
    return ["", title, *("  ".join(row).rstrip() for row in cells)]


def spread(values: Sequence[float], digits: int = 0) -> str:
    """The median, with the least and the most."""
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({least:,.{digits}f} to {most:,.{digits}f})"


def spreads(found: Found) -> dict[str, Any]:
    """Median, least and most of what each system did, for the record."""

    def of(runs: Sequence[Work], field: Callable[[Work], float]) -> dict[str, float]:
        values = [field(run) for run in runs]
        return {"median": statistics.median(values), "least": min(values), "most": max(values)}

    measured = {
        "processes": found.processes,
        "commands": found.commands,
        "processes, plain and otherwise": found.held,
        "waiting": found.waiting,
    }
    return {
        what: {
            name: {"created": of(runs, lambda run: run.created), "done": of(runs, lambda run: run.done)}
            for name, runs in systems.items()
        }
        for what, systems in measured.items()
    }


def _work_table(title: str, found: dict[str, list[Work]]) -> list[str]:
    ours = _rate(found["ours"])
    rows = [
        [name, spread([r.created for r in runs]), spread([r.done for r in runs]), f"{ours / _rate(runs):.2f}"]
        for name, runs in found.items()
    ]
    return table(title, ("system", "created a second", "done a second", "ours / it"), rows)


def _rate(runs: Sequence[Work]) -> float:
    return statistics.median(run.done for run in runs)


def _total(run: Work) -> float:
    return TOTAL / run.created + TOTAL / run.done


def _quantile(seconds: Sequence[float], percent: int) -> float:
    return 1e3 * statistics.quantiles(seconds, n=100)[percent - 1]


def _quantiles(runs: Sequence[Sequence[float]]) -> dict[str, float]:
    """p50 and p99 in milliseconds, medians of the runs."""
    return {f"p{n}": statistics.median(_quantile(run, n) for run in runs) for n in (50, 99)}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _limit(goal: Goal) -> str:
    return f"{'at least' if goal.is_least else 'at most'} {_number(goal.limit)}"


def _verdict(goal: Goal) -> str:
    return {True: "met", False: "missed", None: "not measured"}[goal.met]
