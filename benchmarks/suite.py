"""What is measured, how large, and how often. Systems take turns, so that a neighbour's load falls on all of them."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import flat
from benchmarks.harness import Python, Run, Work, latencies, work
from benchmarks.systems._protocol import COMMANDS, PROCESSES
from benchmarks.systems.ours_waiting import CAP, CONCURRENCY, IO, IO_CONCURRENCY, SHORT, SHORT_BESIDE_LONG

# What waiting handlers allow at most: 2 worker processes, 100 ms each; and what a capped type leaves to the others.
IO_LIMIT = 2 * IO_CONCURRENCY / 0.1
SHARE_LEFT = (CONCURRENCY - CAP) / CONCURRENCY
_PAUSE = 0.02  # seconds between single commands


@dataclass(frozen=True)
class Sizes:
    """How much each question takes: commands or processes, and how often it is asked."""

    runs: int
    long_runs: int  # of what takes minutes
    processes: int
    workflows: int  # of the durable-workflow peers
    commands: int
    jobs: int  # of the slowest queue; others take more
    singles: int
    backlog: int
    drained: int
    waiting: int
    short: int


FULL = Sizes(5, 3, 100_000, 2_000, 200_000, 5_000, 1_000, 1_000_000, 1_000_000, 100_000, 20_000)
QUICK = Sizes(2, 1, 20_000, 500, 40_000, 1_000, 200, 100_000, 100_000, 40_000, 4_000)


@dataclass
class Found:
    """What the measurements found, by system or by what was asked, one entry for each repetition."""

    sizes: Sizes
    processes: dict[str, list[Work]]
    commands: dict[str, list[Work]]
    single: dict[str, list[list[float]]]  # seconds from send to the start of the handler
    held: dict[str, list[Work]]  # plain, with an old snapshot held, under chaos that draws nothing
    claims: dict[str, list[float]]  # claim time with a large backlog, and beside parked and waiting, / without
    tenths: list[float]  # rate of the last tenth of a long drain / that of its first
    refreshed: list[float]  # milliseconds to recount a batch
    oracle: list[float]  # seconds to predict
    waiting: dict[str, list[Work]]  # handlers that wait


class Suite:
    """Measures ours and the floor, and the peers when `peer` gives the interpreter of each."""

    def __init__(self, sizes: Sizes, peer: Callable[[str], Python] | None) -> None:
        own = Python(Path(sys.executable))
        self.sizes = sizes
        self._own = {name: Run(name, f"benchmarks.systems.{name}", own) for name in _OURS}
        self._peers = (
            {}
            if peer is None
            else {name: Run(name, f"benchmarks.systems.{_PEERS[name]}", peer(name)) for name in _PEERS}
        )

    def measure(self) -> Found:
        """Everything, one question after the other."""
        sizes = self.sizes
        return Found(
            sizes,
            processes=self.processes(),
            commands=self.commands(),
            single=self.single(),
            held=self.held(),
            claims=flat.claim_ratios(large=sizes.backlog, small=min(10_000, sizes.backlog // 10)),
            tenths=self.tenths(),
            refreshed=flat.refresh_ms(min(100_000, sizes.processes)),
            oracle=flat.oracle_seconds(min(10_000, sizes.processes)),
            waiting=self.waiting(),
        )

    def processes(self) -> dict[str, list[Work]]:
        """Three-step processes: ours, the floor, the durable-workflow peers."""
        sizes = self.sizes
        counts = {"ours": sizes.processes, "floor": sizes.processes, "absurd": sizes.workflows, "dbos": sizes.workflows}
        return self._in_turns(counts, lambda run, count: work(run, PROCESSES, count))

    def commands(self) -> dict[str, list[Work]]:
        """Single commands: ours and the queues."""
        sizes = self.sizes
        counts = {
            "ours": sizes.commands,
            "pgqueuer_asyncpg": sizes.commands,
            "pgqueuer_psycopg": sizes.commands // 2,
            "oban": 2 * sizes.jobs,
            "procrastinate": sizes.jobs,
        }
        return self._in_turns(counts, lambda run, count: work(run, COMMANDS, count))

    def single(self) -> dict[str, list[list[float]]]:
        """One command at a time to an idle worker: seconds from send to the start of its handler."""
        counts = {"ours": self.sizes.singles, "pgqueuer_asyncpg": self.sizes.singles}
        return self._in_turns(counts, lambda run, count: latencies(run, count, _PAUSE))

    def held(self, *only: str) -> dict[str, list[Work]]:
        """Three-step processes: plain, with an old snapshot held throughout, and under chaos that draws no failure."""
        ours, chaos, count = self._own["ours"], self._own["ours_chaos"], self.sizes.processes
        asked: dict[str, Callable[[], Work]] = {
            "ours": lambda: work(ours, PROCESSES, count),
            "old_snapshot": lambda: work(ours, PROCESSES, count, hold_snapshot=True),
            "chaos": lambda: work(chaos, PROCESSES, count),
        }
        return _turns(_only(asked, only), self.sizes.runs)

    def tenths(self) -> list[float]:
        """The rate of the last tenth of draining a large backlog / that of the first."""
        return _turns({"drain": lambda: flat.tenths(self._own["ours"], self.sizes.drained)}, self.sizes.long_runs)[
            "drain"
        ]

    def waiting(self, *only: str) -> dict[str, list[Work]]:
        """Handlers that wait: many at a time; and short ones, alone and beside a capped type of long ones."""
        run, sizes = self._own["ours_waiting"], self.sizes
        asked: dict[str, Callable[[], Work]] = {
            IO: lambda: work(run, IO, sizes.waiting),
            SHORT: lambda: work(run, SHORT, sizes.short),
            SHORT_BESIDE_LONG: lambda: work(run, SHORT_BESIDE_LONG, sizes.short),
        }
        return _turns(_only(asked, only), self.sizes.long_runs)

    def _in_turns(self, counts: dict[str, int], measure: Callable[[Run, int], Any]) -> dict[str, list[Any]]:
        known = self._own | self._peers
        asked = {name: _bound(measure, known[name], count) for name, count in counts.items() if name in known}
        return _turns(asked, self.sizes.runs)


_OURS = ("ours", "ours_chaos", "ours_waiting", "floor")
_PEERS = {
    "absurd": "absurd_system",
    "dbos": "dbos_system",
    "pgqueuer_asyncpg": "pgqueuer_asyncpg",
    "pgqueuer_psycopg": "pgqueuer_psycopg",
    "oban": "oban_system",
    "procrastinate": "procrastinate_system",
}


def _bound(measure: Callable[[Run, int], Any], run: Run, count: int) -> Callable[[], Any]:
    return lambda: measure(run, count)


def _only(asked: dict[str, Callable[[], Work]], names: Sequence[str]) -> dict[str, Callable[[], Work]]:
    """Those of these names; all when there are none."""
    return {name: measure for name, measure in asked.items() if name in names or not names}


def _turns(asked: dict[str, Callable[[], Any]], runs: int) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {name: [] for name in asked}
    for turn in range(runs):
        for name, measure in asked.items():
            print(f"turn {turn + 1} of {runs}: {name}", file=sys.stderr)
            found[name].append(measure())
    return found
