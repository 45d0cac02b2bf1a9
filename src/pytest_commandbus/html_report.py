"""The load report as one HTML page that loads nothing: results (plain dicts) -> text. Pure.

The template and its style are in the folder html; charts and tables have the same figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from . import charts, report, thresholds
from .compare import Change, Earlier

Result = Mapping[str, Any]

FOLDER = Path(__file__).with_name("html")
SECONDS_FROM_MS = 2_000
"""A chart of latencies that reach so far tells seconds."""
_SURROUNDINGS = {
    "time": "waiting time",
    "skipped_seconds": "seconds skipped",
    "chaos_profile": "chaos profile",
    "pytest_commandbus": "pytest-commandbus",
    "postgresql": "PostgreSQL",
    "python": "Python",
    "platform": "platform",
    "cpus": "processors",
    "cluster": "Dask cluster",
    "hosts": "workers by host",
}


def render(results: Sequence[Result], earlier: Earlier | None = None) -> str:
    """Return the page of these load runs; `earlier`: the report to compare them with."""
    return _template().render(
        style=(FOLDER / "load_report.css").read_text(encoding="utf-8"),
        runs=[_run(number, result, earlier) for number, result in enumerate(results, 1)],
        looks={"better": "good", "worse": "bad", "same": "none"},
        latencies=report.LATENCIES,
        quantiles=report.QUANTILES,
        compared_with=None if earlier is None else str(earlier.path),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        shown=charts.shown,
        number=report.number,
        seconds=report.seconds,
        told=thresholds.told,
        milliseconds=_milliseconds,
    )
    return environment.get_template("load_report.html")


def _run(number: int, result: Result, earlier: Earlier | None) -> dict[str, Any]:
    environment = result["environment"]
    path, _, name = report.name_of(result).rpartition("::")
    comparison = None if earlier is None else earlier.compare(result)
    return {
        **result,
        "id": f"run{number}",
        "name": name,
        "path": path,
        "verdict": _verdict(result),
        "failed_pct": thresholds.failed_pct(result),
        "charts": _charts(result["series"]),
        "buckets": list(_buckets(result["series"])),
        "statuses": _statuses(result),
        "attempt_outcomes": list(dict.fromkeys(name for step in result["steps"].values() for name in step["outcomes"])),
        "surroundings": {
            title: _behavior(told) if isinstance(told, Mapping) else told
            for key, title in _SURROUNDINGS.items()
            if (told := environment.get(key)) is not None
        },
        "began": environment.get("started_at", ""),
        "samples": environment.get("mismatch_samples", ()),
        "chaos": {step: _behavior(told) for step, told in environment.get("chaos", {}).items()},
        "comparison": comparison,
        "rows": [] if comparison is None else [_compared(change) for change in comparison.changes],
    }


def _behavior(told: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in told.items()
    )


def _verdict(result: Result) -> dict[str, str]:
    """What a reader wants to know first, in a word, and whether it is good."""
    judged = result["thresholds"]
    broken = [each["name"] for each in judged if not each["passed"]]
    if broken:
        return {
            "look": "bad",
            "text": f"{len(broken)} of {report.counted(len(judged), 'threshold')} broken: {', '.join(broken)}",
        }
    if judged:
        return {
            "look": "good",
            "text": "the one threshold is met" if len(judged) == 1 else f"all {len(judged)} thresholds are met",
        }
    return {"look": "none", "text": "no thresholds"}


def _charts(series: Mapping[str, Any]) -> list[dict[str, Any]]:
    width = series["bucket_seconds"]
    drawn = [
        _chart(
            "Throughput",
            "/s",
            width,
            charts.Line("commands", series["commands_per_second"], "b", filled=True),
            charts.Line("processes", series["processes_per_second"], "a"),
        ),
        _chart(
            "Backlog", "commands", width, charts.Line("sent, not ended or parked", series["backlog"], "a", filled=True)
        ),
    ]
    for kind, (name, what) in report.LATENCIES.items():
        drawn.append({**_latency_chart(name, series[kind], width), "what": what})
    return drawn


def _latency_chart(name: str, values: Mapping[str, Sequence[float | None]], width: float) -> dict[str, Any]:
    lines = [charts.Line(q, values[q], look) for q, look in zip(report.QUANTILES, "abc", strict=True)]
    if max(line.highest for line in lines) < SECONDS_FROM_MS:
        return _chart(f"Latency: {name}", "ms", width, *lines)
    return _chart(f"Latency: {name}", "s", width, *(line.scaled(1 / 1000) for line in lines))


def _chart(title: str, unit: str, width: float, *lines: charts.Line) -> dict[str, Any]:
    return {"title": title, "unit": unit, "lines": lines, "svg": charts.chart(title, unit, lines, width), "what": ""}


def _buckets(series: Mapping[str, Any]) -> Any:
    for bucket in range(len(series["backlog"])):
        yield {
            "when": charts.stretch(bucket, series["bucket_seconds"]),
            "processes": series["processes_per_second"][bucket],
            "commands": series["commands_per_second"][bucket],
            "backlog": series["backlog"][bucket],
            "latencies": [series[kind][q][bucket] for kind in report.LATENCIES for q in report.QUANTILES],
        }


def _statuses(result: Result) -> list[dict[str, Any]]:
    """How the processes ended, beside what the seed predicted."""
    predicted = result["environment"].get("predicted")
    names = dict.fromkeys([*result["outcomes"], *(predicted or {})])
    return [
        {
            "name": name,
            "count": result["outcomes"].get(name, 0),
            "predicted": None if predicted is None else predicted.get(name, 0),
            "share": 100 * result["outcomes"].get(name, 0) / max(result["processes"], 1),
        }
        for name in names
    ]


def _compared(change: Change) -> dict[str, Any]:
    *figures, percent = report.change_texts(change)
    return {"name": change.name, "figures": figures, "percent": percent, "verdict": change.verdict}


def _milliseconds(value: float | None) -> str:
    return charts.shown(value) if value is None or value >= 100 else f"{value:,.2f}" if value < 10 else f"{value:,.1f}"
