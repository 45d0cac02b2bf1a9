"""The bus beside its floor and its peers, in one run on one machine: `python -m benchmarks [--quick] [--json PATH]`.

Every measurement has a server of its own, with its data on disk and synced, and real worker processes. The systems take
turns, so that a neighbour's load falls on all of them; what is printed are medians, and the least and the most.
"""

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import environments, flat, idle, plugin, reads
from benchmarks.harness import Python, Run, Work, latencies, work
from benchmarks.systems._protocol import COMMANDS, PROCESSES

_RESULTS = Path(__file__).parent / "results"


class Suite:
    """What is measured, how large, how often."""

    def __init__(self, *, quick: bool) -> None:
        own, others = Python(Path(sys.executable)), environments.peers()
        self.quick = quick
        self.runs = 2 if quick else 5
        self.ours = Run("ours", "benchmarks.systems.ours", own)
        self.chaos = Run("chaos", "benchmarks.systems.ours_chaos", own)
        self.floor = Run("floor", "benchmarks.systems.floor", own)
        self.absurd = Run("absurd", "benchmarks.systems.absurd_system", others, 100)
        self.dbos = Run("dbos", "benchmarks.systems.dbos_system", others, 100)
        self.pgqueuer_asyncpg = Run("pgqueuer_asyncpg", "benchmarks.systems.pgqueuer_asyncpg", others)
        self.pgqueuer_psycopg = Run("pgqueuer_psycopg", "benchmarks.systems.pgqueuer_psycopg", others)
        self.oban = Run("oban", "benchmarks.systems.oban_system", others, 100)
        self.procrastinate = Run("procrastinate", "benchmarks.systems.procrastinate_system", others, 50)

    def processes(self) -> dict[str, list[Work]]:
        """Three-step processes: ours, the floor, the durable-workflow peers."""
        large, small = (20_000, 500) if self.quick else (100_000, 2_000)
        sizes = [(self.ours, large), (self.floor, large), (self.absurd, small), (self.dbos, small)]
        return _in_turns(sizes, self.runs, lambda run, count: work(run, PROCESSES, count))

    def commands(self) -> dict[str, list[Work]]:
        """Single commands: ours and the queues."""
        large, small = (40_000, 1_000) if self.quick else (200_000, 5_000)
        sizes = [
            (self.ours, large),
            (self.pgqueuer_asyncpg, large),
            (self.pgqueuer_psycopg, large // 2),
            (self.oban, small * 2),
            (self.procrastinate, small),
        ]
        return _in_turns(sizes, self.runs, lambda run, count: work(run, COMMANDS, count))

    def single(self) -> dict[str, list[list[float]]]:
        """One command at a time to an idle worker: seconds from send to the start of its handler."""
        count = 200 if self.quick else 1_000
        sizes = [(self.ours, count), (self.pgqueuer_asyncpg, count)]
        return _in_turns(sizes, self.runs, lambda run, n: latencies(run, n, 0.02))

    def held(self) -> dict[str, list[Work]]:
        """Three-step processes: plain, with an old snapshot held throughout, and under chaos that draws no failure."""
        count = 20_000 if self.quick else 100_000
        found: dict[str, list[Work]] = {"ours": [], "old_snapshot": [], "chaos": []}
        for turn in range(self.runs):
            print(f"turn {turn + 1} of {self.runs}: plain, with an old snapshot, under chaos", file=sys.stderr)
            found["ours"].append(work(self.ours, PROCESSES, count))
            found["old_snapshot"].append(work(self.ours, PROCESSES, count, hold_snapshot=True))
            found["chaos"].append(work(self.chaos, PROCESSES, count))
        return found


def _in_turns(sizes: Sequence[tuple[Run, int]], runs: int, measure: Callable[[Run, int], Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {run.name: [] for run, _ in sizes}
    for turn in range(runs):
        for run, count in sizes:
            print(f"turn {turn + 1} of {runs}: {run.name}, {count:,}", file=sys.stderr)
            found[run.name].append(measure(run, count))
    return found


def _spread(values: Sequence[float], digits: int = 0) -> str:
    middle, least, most = statistics.median(values), min(values), max(values)
    return f"{middle:,.{digits}f} ({least:,.{digits}f} to {most:,.{digits}f})"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    print(f"\n{title}")
    for row in [columns, ["-" * width for width in widths], *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _work_table(title: str, found: dict[str, list[Work]]) -> dict[str, float]:
    """Print a workload's table; returns ours / theirs by system."""
    ours = statistics.median(run.done for run in found["ours"])
    ratios = {name: ours / statistics.median(run.done for run in runs) for name, runs in found.items()}
    rows = [
        [name, _spread([r.created for r in runs]), _spread([r.done for r in runs]), f"{ratios[name]:.2f}"]
        for name, runs in found.items()
    ]
    _table(title, ("system", "created a second", "done a second", "ours / it"), rows)
    return {name: ratio for name, ratio in ratios.items() if name != "ours"}


def _single_table(found: dict[str, list[list[float]]]) -> dict[str, dict[str, float]]:
    """Print the latencies; returns p50 and p99 in milliseconds by system, medians of the runs."""
    result: dict[str, dict[str, float]] = {}
    rows = []
    for name, runs in found.items():
        p50 = [statistics.median(run) * 1e3 for run in runs]
        p99 = [statistics.quantiles(run, n=100)[98] * 1e3 for run in runs]
        result[name] = {"p50": statistics.median(p50), "p99": statistics.median(p99)}
        rows.append([name, _spread(p50, 2), _spread(p99, 2)])
    _table("one command to an idle worker, send to handler start, ms", ("system", "p50", "p99"), rows)
    return result


def _flat_table(*, large: int) -> float:
    """Print what stays flat; returns the claim time with the large backlog / with the small one."""
    found = flat.claim_ratios(large=large)
    refreshed = flat.refresh_ms(100_000)
    rows = [
        [f"claim: backlog {large:,} / 10,000", _spread(found["backlog"], 2)],
        [f"claim: beside {large // 10:,} waiting and parked / without", _spread(found["aside"], 2)],
        ["recount of a batch of 100,000 processes, half done, ms", _spread(refreshed, 1)],
        ["the oracle's prediction of 10,000 processes under chaos, s", _spread(flat.oracle_seconds(), 2)],
    ]
    _table("flat", ("what", "median (least to most)"), rows)
    return flat.median_of(found["backlog"])


def _beside_table(*, quick: bool) -> None:
    """Print what the bus and the plugin cost beside the work: idle, asked, in a test suite."""
    idling = idle.cores(20.0 if quick else 60.0)
    rows = [[f"an idle worker of two domains, its {who}, % of a core", f"{share:.2f}"] for who, share in idling.items()]
    stored = 100_000 if quick else 1_000_000
    asked = reads.milliseconds(stored)
    rows += [[f"{what}, {stored:,} commands stored, ms", _spread(found, 1)] for what, found in asked.items()]
    servers = plugin.server_seconds()
    rows += [[f"embedded server, {kind}, s", _spread(found, 3)] for kind, found in servers.items()]
    rows.append(["loading the plugin unused, ms of CPU", _spread(plugin.loading_ms(), 1)])
    rows.append(["200 tests with a fresh database each, s", f"{plugin.suite_seconds():.1f}"])
    _table("beside the work", ("what", "median (least to most)"), rows)


def measure(*, quick: bool) -> dict[str, Any]:
    """Run everything, print the tables, return the figures."""
    suite = Suite(quick=quick)
    processes, commands, single = suite.processes(), suite.commands(), suite.single()
    ratios = _work_table("three-step processes, 2 worker processes", processes)
    ratios |= _work_table("commands, 2 worker processes", commands)
    waits = _single_table(single)
    ratios["latency_p50_pgqueuer"] = waits["ours"]["p50"] / waits["pgqueuer_asyncpg"]["p50"]
    held = _work_table("three-step processes, plain and otherwise", suite.held())
    ratios |= {"old_snapshot": 1 / held["old_snapshot"], "chaos": 1 / held["chaos"]}
    ratios["backlog_1m"] = _flat_table(large=100_000 if quick else 1_000_000)
    _beside_table(quick=quick)
    count = 20_000 if quick else 100_000
    total = [count / run.created + count / run.done + run.audited for run in processes["ours"]]
    _table(
        f"{count:,} three-step processes, seconds",
        ("created + done + audited", "of it audited"),
        [[_spread(total, 1), _spread([run.audited for run in processes["ours"]], 1)]],
    )
    return {
        "processes_per_second": statistics.median(run.done for run in processes["ours"]),
        "processes_total_seconds": statistics.median(total),
        "created_per_second": statistics.median(run.created for run in processes["ours"]),
        "sent_per_second": statistics.median(run.created for run in commands["ours"]),
        "commands_per_second": statistics.median(run.done for run in commands["ours"]),
        "send_to_start_ms": waits["ours"],
        "ratios": ratios,
    }


def _machine() -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller and fewer runs: under 5 minutes")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    figures = {"machine": _machine(), "quick": options.quick, **measure(quick=options.quick)}
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
        print(f"\nfigures: {options.json}")


if __name__ == "__main__":
    main()
