"""A load report beside an earlier one: `--cb-compare`. Pure but for the reading of the earlier file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .thresholds import failed_pct

Result = Mapping[str, Any]
Verdict = Literal["better", "worse", "same"]

SAME_PCT = 1.0
"""A change of less than so many percent is none: no two runs are equal."""

_LOAD = ("processes", "shards", "workers", "seed")
_SURROUNDINGS = ("time", "chaos", "chaos_profile", "postgresql", "python", "platform", "cpus")


class CompareError(Exception):
    """The earlier report cannot be compared with; the message says how to mend it."""


@dataclass(frozen=True)
class Change:
    """One figure before and now. higher_is_better: its direction. unit: "" for counts."""

    name: str
    unit: str
    before: float
    now: float
    higher_is_better: bool = False

    @property
    def absolute(self) -> float:
        """By how much it changed."""
        return self.now - self.before

    @property
    def percent(self) -> float | None:
        """By how many percent it changed, None where there was nothing before."""
        return 100 * self.absolute / self.before if self.before else None

    @property
    def verdict(self) -> Verdict:
        """Whether that is better or worse."""
        if not self.absolute or (self.percent is not None and abs(self.percent) < SAME_PCT):
            return "same"
        return "better" if (self.absolute > 0) == self.higher_is_better else "worse"


@dataclass(frozen=True)
class Comparison:
    """A load run beside the same one of an earlier report. differing: what else was not the same, as text."""

    path: str
    started_at: str
    changes: Sequence[Change]
    differing: Sequence[str]


class Earlier:
    """An earlier JSON report; finds the runs of the same tests in it."""

    def __init__(self, path: Path, results: Sequence[Result]) -> None:
        self.path = path
        self._results = {_key(result): result for result in results}

    def compare(self, result: Result) -> Comparison | None:
        """Set a run beside the same run of the same test, None where the earlier report has none."""
        earlier = self._results.get(_key(result))
        if earlier is None:
            return None
        return Comparison(
            path=str(self.path),
            started_at=earlier["environment"].get("started_at", ""),
            changes=list(changes(earlier, result)),
            differing=list(differing(earlier, result)),
        )


def read_earlier(path: Path, known_format: int) -> Earlier:
    """Read an earlier JSON report. Errors: CompareError."""
    mend = f"write one with --cb-report={path.with_suffix('.json')}, or leave --cb-compare out"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CompareError(f"--cb-compare={path}: cannot be read: {error.strerror}; {mend}") from None
    except ValueError:
        raise CompareError(
            f"--cb-compare={path}: is no JSON; it takes the .json form of a load report: {mend}"
        ) from None
    found = document.get("format") if isinstance(document, dict) else None
    if found is not None and found != known_format:
        raise CompareError(
            f"--cb-compare={path}: has the format {found!r}, this version of pytest-commandbus reads {known_format}: "
            "run the load tests anew with this version, or compare with the one that wrote it"
        )
    try:
        results = document.get("tests", [document])
        for result in results:
            list(changes(result, result)), _key(result)
    except (AttributeError, KeyError, TypeError, ValueError):
        results = None
    if found is None or not results:
        raise CompareError(f"--cb-compare={path}: is not a load report of this plugin, or was cut short; {mend}")
    return Earlier(path, results)


def changes(before: Result, now: Result) -> Iterator[Change]:
    """The figures that both runs have, each with its direction."""
    for name, key, unit in (("processes", "processes_per_second", "/s"), ("commands", "commands_per_second", "/s")):
        yield Change(name, unit, float(before[key]), float(now[key]), higher_is_better=True)
    for name in ("created", "run", "total"):
        yield Change(name, "s", float(before[f"{name}_seconds"]), float(now[f"{name}_seconds"]))
    yield Change("not completed", "%", failed_pct(before), failed_pct(now))
    for name, key in (
        ("retries", "retries"),
        ("in troubleshooting", "in_troubleshooting"),
        ("peak backlog", "peak_backlog"),
    ):
        yield Change(name, "", float(before[key]), float(now[key]))
    yield from _latencies("process", before["latency_ms"], now["latency_ms"], "p50", "p99")
    for step, figures in now["steps"].items():
        if step in before["steps"]:
            for kind, key in (("waiting", "waiting_ms"), ("handling", "handling_ms"), ("end to end", "latency_ms")):
                yield from _latencies(f"{step} {kind}", before["steps"][step][key], figures[key], "p99")


def differing(before: Result, now: Result) -> Iterator[str]:
    """What the runs have not in common besides their figures, so that a reader can tell what a change may be due to."""
    for key in _LOAD:
        if before[key] != now[key]:
            yield f"{key} {before[key]} before, {now[key]} now"
    for key in _SURROUNDINGS:
        was, is_now = before["environment"].get(key), now["environment"].get(key)
        if was != is_now:
            simple = not isinstance(was, dict) and not isinstance(is_now, dict)
            yield f"{key} {was or 'none'} before, {is_now or 'none'} now" if simple else f"another {key}"
    gone = sorted(set(before["steps"]) ^ set(now["steps"]))
    if gone:
        yield f"steps of only one of them: {', '.join(gone)}"


def _latencies(name: str, before: Mapping[str, float], now: Mapping[str, float], *quantiles: str) -> Iterator[Change]:
    for quantile in quantiles:
        if quantile in before and quantile in now:
            yield Change(f"{name} {quantile}", "ms", float(before[quantile]), float(now[quantile]))


def _key(result: Result) -> tuple[str, int]:
    return str(result["environment"]["test"]), int(result["environment"]["run"])
