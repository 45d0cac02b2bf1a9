"""The result of a load run: its figures, what became of each process, and what the seed predicts. Pure."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from .chaos import ChaosUsageError
from .load_series import AttemptFigures, BacklogBucket, Quantiles, series
from .oracle import Prediction, ProcessPrediction
from .report import FORMAT, LATENCIES, quantiles, rate
from .thresholds import judge

SAMPLES = 5
"""How many processes that ended otherwise than predicted are named."""


@dataclass(frozen=True)
class Measured:
    """What was read from the database of a finished run; times are wall time, in seconds where nothing else is said.

    processes_ended: by bucket. process_latency_ms: from a process's creation to its end, or until it was parked. hosts:
    how many workers of each made an attempt.
    """

    processes: int
    shards: int
    skipped: float
    total_seconds: float
    created_seconds: float
    started_at: datetime
    postgresql: str
    bucket_seconds: float
    outcomes: Mapping[str, int]
    attempts: Sequence[AttemptFigures]
    process_latency_ms: Quantiles
    processes_ended: Mapping[int, int]
    backlog: Sequence[BacklogBucket]
    hosts: Mapping[str, int]


@dataclass(frozen=True)
class LoadResult:
    """What `await cb_load(...)` gives: the merged figures of all shards, named as in the JSON report.

    seed, processes, shards, workers (those that made an attempt), retries, in_troubleshooting, peak_backlog are
    numbers; `*_seconds` are wall time, run_seconds from the first attempt's begin to the last one's end; outcomes has
    the processes by status; latency_ms are p50, p95 and p99 of a process, from its creation to its end; steps has for
    each step the outcomes of its attempts, and waiting_ms, handling_ms and latency_ms; series the same over time.
    thresholds: those of the marker, each with name, limit, figure and passed. actual: what became of each process.
    mismatches: the processes that ended otherwise than predicted, as text; empty when all are as their seed says.
    """

    format: int
    seed: int
    processes: int
    shards: int
    workers: int
    created_seconds: float
    run_seconds: float
    total_seconds: float
    processes_per_second: float
    commands_per_second: float
    latency_ms: Mapping[str, float]
    outcomes: Mapping[str, int]
    steps: Mapping[str, Any]
    retries: int
    in_troubleshooting: int
    peak_backlog: int
    thresholds: Sequence[Mapping[str, Any]]
    environment: Mapping[str, Any]
    series: Mapping[str, Any] = field(repr=False)
    actual: Prediction = field(repr=False)
    oracle: Callable[[Sequence[str] | None], Prediction] = field(repr=False, compare=False)

    def predict(self, path: Sequence[str] | None = None) -> Prediction:
        """What the oracle says of every process, for the declared order of steps or the given `path`.

        Raises ChaosUsageError when the path depends on results and was not given.
        """
        return self.oracle(path)

    @property
    def predicted(self) -> Prediction:
        """What the oracle says of every process; compare it with `actual`."""
        return self.oracle(None)

    @property
    def mismatches(self) -> list[str]:
        """The processes that ended otherwise than predicted, each told in a line."""
        return differences(self.predicted, self.actual)


def figures(
    measured: Measured, *, seed: int, environment: Mapping[str, Any], limits: Mapping[str, float]
) -> dict[str, Any]:
    """The result as a dict of built-in types, its keys those of the JSON report. limits: the thresholds by name."""
    overall = next((row for row in measured.attempts if row.step is None and row.bucket is None), None)
    run_seconds = overall.seconds if overall is not None else 0.0
    steps = _steps(measured.attempts)
    attempts: Counter[str] = Counter()
    for step in steps.values():
        attempts.update(step["outcomes"])
    retries = attempts.pop("RETRY_SCHEDULED", 0)
    result = {
        "format": FORMAT,
        "seed": seed,
        "processes": measured.processes,
        "shards": measured.shards,
        "workers": overall.workers if overall is not None else 0,
        "created_seconds": round(measured.created_seconds, 3),
        "run_seconds": round(run_seconds, 3),
        "total_seconds": round(measured.total_seconds, 3),
        "processes_per_second": rate(measured.processes, run_seconds),
        "commands_per_second": rate(attempts.total(), run_seconds),
        "latency_ms": quantiles(measured.process_latency_ms) or {},
        "outcomes": dict(measured.outcomes),
        "steps": steps,
        "retries": retries,
        "in_troubleshooting": measured.outcomes.get("WAITING_FOR_TSQ", 0),
        "peak_backlog": max((bucket.peak for bucket in measured.backlog), default=0),
        "thresholds": [],
        "environment": {**environment, **_surroundings(measured)},
        "series": series(
            total_seconds=measured.total_seconds,
            width=measured.bucket_seconds,
            processes=measured.processes_ended,
            attempts=measured.attempts,
            backlog=measured.backlog,
        ),
    }
    return {**result, "thresholds": judge(limits, result)}


def _surroundings(measured: Measured) -> dict[str, Any]:
    return {
        "started_at": f"{measured.started_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC",
        "skipped_seconds": round(measured.skipped, 3),
        "hosts": dict(measured.hosts),
        "postgresql": measured.postgresql,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "cpus": os.cpu_count(),
    }


def _steps(rows: Iterable[AttemptFigures]) -> dict[str, dict[str, Any]]:
    steps: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.step is None:
            continue
        step = steps.setdefault(row.step, {"outcomes": {}, **{name: {} for name in LATENCIES}})
        if row.outcome is not None:
            step["outcomes"][row.outcome] = row.attempts
        else:
            step.update({name: quantiles(getattr(row, name)) or {} for name in LATENCIES})
    return steps


def judgement(oracle: Callable[[Sequence[str] | None], Prediction], actual: Prediction) -> dict[str, Any]:
    """The oracle's counts beside the actual ones, for the report; why there are none where it cannot tell."""
    try:
        predicted = oracle(None)
    except ChaosUsageError as error:
        return {"predicted": None, "not_predicted": str(error), "mismatches": None, "mismatch_samples": []}
    differing = differences(predicted, actual)
    return {
        "predicted": {str(status): count for status, count in Counter(predicted.outcomes).most_common()},
        "mismatches": len(differing),
        "mismatch_samples": differing[:SAMPLES],
    }


def differences(predicted: Prediction, actual: Prediction) -> list[str]:
    """Each process that ended otherwise than predicted, in the order of ordinals."""
    if predicted.processes == actual.processes:
        return []
    foreseen = {process.ordinal: process for process in predicted.processes}
    seen = {process.ordinal: process for process in actual.processes}
    ordinals = sorted(foreseen.keys() | seen.keys())
    return [
        f"process {ordinal}: predicted {_told(foreseen.get(ordinal))}, was {_told(seen.get(ordinal))}"
        for ordinal in ordinals
        if foreseen.get(ordinal) != seen.get(ordinal)
    ]


def _told(process: ProcessPrediction | None) -> str:
    if process is None:
        return "absent"
    at = f" at {process.failing_step}" if process.failing_step else ""
    failures = ", ".join(f"{count} of {step}" for step, count in process.failures.items())
    return f"{process.outcome}{at} ({failures or 'no'} failed)"
