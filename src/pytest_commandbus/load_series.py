"""How a load run went over time: the figures of its buckets, each a stretch of the run. Pure.

A report shows buckets, not points, so that its size does not grow with the number of processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from .report import LATENCIES, quantiles, rate

MOST_BUCKETS = 120
SHORTEST_BUCKET = 0.01

Quantiles = Sequence[float] | None
"""p50, p95 and p99 in ms; None where there is nothing to tell."""


class AttemptFigures(NamedTuple):
    """The attempts of a step, of an outcome, or of a bucket, None where it is of all.

    commands: that ended or were parked by one of them. seconds: from the first one's begin to the last one's end.
    workers: that made them. waiting_ms and handling_ms: of the attempts; latency_ms: of those commands.
    """

    step: str | None
    outcome: str | None
    bucket: int | None
    attempts: int
    commands: int
    seconds: float
    workers: int
    waiting_ms: Quantiles
    handling_ms: Quantiles
    latency_ms: Quantiles


class BacklogBucket(NamedTuple):
    """The most commands that lived at once in a bucket, and by how many they changed until its end."""

    bucket: int
    peak: int
    change: int


def bucket_seconds(total_seconds: float) -> float:
    """The length of a bucket: the shortest of 1, 2 or 5 times a power of ten that gives at most MOST_BUCKETS."""
    wanted = max(total_seconds / MOST_BUCKETS, SHORTEST_BUCKET)
    power = 10.0 ** math.floor(math.log10(wanted))
    return round(next(step * power for step in (1, 2, 5, 10) if step * power >= wanted * (1 - 1e-9)), 6)


def series(
    *,
    total_seconds: float,
    width: float,
    processes: Mapping[int, int],
    attempts: Iterable[AttemptFigures],
    backlog: Iterable[BacklogBucket],
) -> dict[str, Any]:
    """The figures of all buckets, as lists of one value each from the run's begin on; built-in types only.

    A latency is None in a bucket in which nothing ended; the backlog of a bucket is its most.
    """
    by_bucket = {row.bucket: row for row in attempts if row.bucket is not None}
    changes = {row.bucket: row for row in backlog}
    last = max([math.ceil(total_seconds / width) - 1, *processes, *by_bucket, *changes, 0])
    buckets = range(last + 1)
    return {
        "bucket_seconds": width,
        "processes_per_second": [rate(processes.get(n, 0), width) for n in buckets],
        "commands_per_second": [rate(by_bucket[n].commands, width) if n in by_bucket else 0.0 for n in buckets],
        "backlog": _backlog(changes, buckets),
        **{
            name: _columns([getattr(by_bucket[n], name) if n in by_bucket else None for n in buckets])
            for name in LATENCIES
        },
    }


def _backlog(changes: Mapping[int, BacklogBucket], buckets: range) -> list[int]:
    """The most of each bucket: what lived when it began counts too."""
    most, live = [], 0
    for bucket in buckets:
        row = changes.get(bucket)
        most.append(live if row is None else max(live, row.peak))
        live += 0 if row is None else row.change
    return most


def _columns(rows: Sequence[Quantiles]) -> dict[str, list[float | None]]:
    told = [quantiles(row) for row in rows]
    return {name: [None if row is None else row[name] for row in told] for name in ("p50", "p95", "p99")}
