"""What a load run tells at its end: the merged result (a plain dict) -> terminal lines, JSON, junit properties.

Pure: values in, text out; no driver, no clock. The keys of a result are `RESULT_KEYS`; times are seconds, latencies
milliseconds. What belongs to one run of one machine (the test's name, skipped time, the oracle's counts, versions)
stands under `environment`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .compare import Change, Comparison, Earlier
from .thresholds import told

Result = Mapping[str, Any]

FORMAT = 1
"""Of the JSON report: grows when a key is renamed, removed or means something else."""

RESULT_KEYS = (
    "format",
    "seed",
    "processes",
    "shards",
    "workers",
    "created_seconds",
    "run_seconds",
    "total_seconds",
    "processes_per_second",
    "commands_per_second",
    "latency_ms",
    "outcomes",
    "steps",
    "retries",
    "in_troubleshooting",
    "peak_backlog",
    "thresholds",
    "environment",
    "series",
)
QUANTILES = ("p50", "p95", "p99")
LATENCIES: Mapping[str, tuple[str, str]] = {
    "waiting_ms": ("waiting", "of an attempt: from when it was due until a worker claimed it"),
    "handling_ms": ("handling", "of an attempt: from its claim to its outcome, waiting within the worker included"),
    "latency_ms": ("end to end", "of a command: from when it was sent until it ended or was parked, retries included"),
}
"""The kinds of latency, all in wall time: key, name, and what it is."""
LABEL = 15
_COLUMN = 9


class ReportError(Exception):
    """A report could not be asked for or written in this form."""


def rate(count: float, seconds: float) -> float:
    """Events a second; 0 where no time passed."""
    return round(count / seconds, 1) if seconds > 0 else 0.0


def quantiles(values: Sequence[float] | None) -> dict[str, float] | None:
    """p50, p95 and p99 by name, in ms to the microsecond; None for none."""
    return None if values is None else dict(zip(QUANTILES, (round(value, 3) for value in values), strict=True))


def number(value: float) -> str:
    """1234.5 -> '1,234' and 3.456 -> '3.5': as many digits as a reader can use."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:,.1f}"


def counted(count: float, one: str, many: str = "") -> str:
    """1, 'shard' -> '1 shard'; 2, 'shard' -> '2 shards'; `many` where that is not `one` with an s."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"


def seconds(value: float) -> str:
    """A duration for people: '0.42 s', '12.3 s', '2 min 5 s', '1 h 23 min'."""
    if value < 10:
        return f"{value:.2f} s"
    if value < 120:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _labelled(label: str, text: str) -> str:
    return f"  {label:<{LABEL}}{text}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number(count)}" for name, count in counts.items()) or "none"


def name_of(result: Result) -> str:
    """The test of a run, and which of its runs it is where it has several."""
    environment = result["environment"]
    return f"{environment['test']}, run {environment['run']}" if environment["run"] > 1 else str(environment["test"])


def _head(result: Result) -> list[str]:
    created, ran = result["created_seconds"], result["run_seconds"]
    environment = result["environment"]
    size = f"{counted(result['processes'], 'process', 'processes')}, {counted(result['shards'], 'shard')}"
    lines = [
        f"{name_of(result)}: {size}, {counted(result['workers'], 'worker')}, seed {result['seed']}",
        _labelled("created", f"{seconds(created)}, {number(rate(result['processes'], created))} processes/s"),
        _labelled(
            "run",
            f"{seconds(ran)}, {number(result['processes_per_second'])} processes/s, "
            f"{number(result['commands_per_second'])} commands/s; {seconds(result['total_seconds'])} in all",
        ),
    ]
    skipped = environment.get("skipped_seconds", 0)
    lines.append(_labelled("time skipped", seconds(skipped) if skipped else "none"))
    hosts: Mapping[str, int] = environment.get("hosts", {})
    if len(hosts) > 1 or "cluster" in environment:
        lines.append(_labelled("hosts", ", ".join(f"{host} ({counted(n, 'worker')})" for host, n in hosts.items())))
    return lines


def _outcome_table(result: Result) -> list[str]:
    actual: Mapping[str, int] = result["outcomes"]
    predicted: Mapping[str, int] | None = result["environment"].get("predicted")
    expected = predicted or {}
    names = [*actual, *(name for name in expected if name not in actual)]
    width = max((len(name) for name in names), default=0)
    head = f"{'outcomes':<{max(width + 2, LABEL)}}{'actual':>10}"
    lines = [f"  {head}{'predicted':>12}" if predicted is not None else f"  {head}"]
    for name in names:
        row = f"    {name:<{max(width, LABEL - 2)}}{number(actual.get(name, 0)):>10}"
        lines.append(f"{row}{number(expected.get(name, 0)):>12}" if predicted is not None else row)
    return lines


def _oracle(result: Result) -> list[str]:
    environment = result["environment"]
    if environment.get("predicted") is None:
        return [_labelled("oracle", f"no prediction: {environment.get('not_predicted', 'nothing to predict from')}")]
    differing = environment["mismatches"]
    if not differing:
        return [_labelled("oracle", "equal: every process ended as its seed predicts")]
    samples = [f"    {sample}" for sample in environment.get("mismatch_samples", ())]
    return [
        _labelled("oracle", f"NOT EQUAL: {counted(differing, 'process', 'processes')} ended otherwise, such as"),
        *samples,
    ]


def _step_table(result: Result) -> list[str]:
    steps: Mapping[str, Any] = result["steps"]
    width = max((len(name) for name in steps), default=0)
    groups = "".join(f"   {name:<{_COLUMN * len(QUANTILES) - 1}}" for name, _ in LATENCIES.values())
    head = "".join("  " + "".join(f"{quantile:>{_COLUMN}}" for quantile in QUANTILES) for _ in LATENCIES)
    space = max(width, LABEL - 2)
    lines = [f"  {'latency in ms':<{space + 2}}{groups.rstrip()}", f"    {'':<{space}}{head}"]
    for name, step in steps.items():
        figures = "".join(
            "  " + "".join(f"{_milliseconds(step[kind].get(q)):>{_COLUMN}}" for q in QUANTILES) for kind in LATENCIES
        )
        lines.append(f"    {name:<{space}}{figures}")
    whole = ", ".join(f"{name} {_milliseconds(value)}" for name, value in result["latency_ms"].items())
    lines += [f"    ({name} {what})" for name, what in LATENCIES.values()]
    lines.append(_labelled("processes", f"{whole or '-'} ms from creation to end"))
    lines.append("  outcomes of attempts")
    return [*lines, *(f"    {name:<{space}}  {_counts(step['outcomes'])}" for name, step in steps.items())]


def _thresholds(result: Result) -> list[str]:
    if not result["thresholds"]:
        return []
    rows = [(threshold, *told(threshold)) for threshold in result["thresholds"]]
    names, width = max(len(each["name"]) for each, _, _ in rows), max(len(figure) for _, figure, _ in rows)
    return [
        "  thresholds",
        *(
            f"    {each['name']:<{names}}  {'met' if each['passed'] else 'BROKEN':<8}{figure:<{width}}  {limit}"
            for each, figure, limit in rows
        ),
    ]


def comparison_lines(comparison: Comparison) -> list[str]:
    """A run beside the same run of an earlier report."""
    lines = [f"  against {comparison.path}" + (f" of {comparison.started_at}" if comparison.started_at else "")]
    lines += [f"    not the same: {text}" for text in comparison.differing]
    width = max(len(change.name) for change in comparison.changes)
    lines.append(f"    {'':<{width}}{'before':>14}{'now':>14}{'change':>14}{'%':>9}")
    for each in comparison.changes:
        figures = "".join(f"{text:>14}" for text in change_texts(each)[:3])
        lines.append(f"    {each.name:<{width}}{figures}{change_texts(each)[3]:>9}  {each.verdict}")
    return lines


def change_texts(change: Change) -> tuple[str, str, str, str]:
    """A figure before, now, the difference and the percentage, with units."""
    unit = f" {change.unit}" if change.unit not in ("", "/s") else change.unit
    plain = (f"{exact(change.before)}{unit}", f"{exact(change.now)}{unit}", f"{exact(change.absolute, '+')}{unit}")
    return (*plain, "new" if change.percent is None and change.now else f"{change.percent or 0:+,.1f}")


def exact(value: float, sign: str = "") -> str:
    """A figure that is to be compared: 12345 -> '12,345', 3.4567 -> '3.46'."""
    digits = 0 if float(value).is_integer() else 2 if abs(value) < 100 else 1
    return f"{value:{sign},.{digits}f}"


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}"


def terminal_lines(result: Result, earlier: Earlier | None = None) -> list[str]:
    """The section of one load test in the terminal summary; `earlier`: the report to compare it with."""
    return [
        *_head(result),
        *_outcome_table(result),
        *_oracle(result),
        *_step_table(result),
        _labelled(
            "retries",
            f"{number(result['retries'])}; in troubleshooting {number(result['in_troubleshooting'])}; "
            f"peak backlog {number(result['peak_backlog'])}",
        ),
        *_thresholds(result),
        *([] if earlier is None else _compared(result, earlier)),
    ]


def _compared(result: Result, earlier: Earlier) -> list[str]:
    comparison = earlier.compare(result)
    if comparison is None:
        return [f"  against {earlier.path}: it has no run of this test to compare with"]
    return comparison_lines(comparison)


def junit_properties(result: Result) -> list[tuple[str, str]]:
    """The same figures, flat, as (name, value) for junit's properties; a second run of a test has names of its own."""
    run = result["environment"]["run"]
    prefix = "cb_load" if run == 1 else f"cb_load{run}"
    flat = [(key, result[key]) for key in RESULT_KEYS if isinstance(result[key], int | float)]
    flat += [(f"outcome_{name}", count) for name, count in result["outcomes"].items()]
    flat += [(f"{name}_ms", value) for name, value in result["latency_ms"].items()]
    for step, figures in result["steps"].items():
        for kind in LATENCIES:
            part = "" if kind == "latency_ms" else f"_{kind.removesuffix('_ms')}"
            flat += [(f"{step}{part}_{name}_ms", value) for name, value in figures[kind].items()]
    for threshold in result["thresholds"]:
        figure, limit = told(threshold)
        flat.append(
            (f"threshold_{threshold['name']}", f"{'met' if threshold['passed'] else 'broken'}: {figure}, {limit}")
        )
    return [(f"{prefix}_{name}", str(value)) for name, value in flat]


def as_json(results: Sequence[Result], earlier: Earlier | None = None) -> str:
    """One load test: its result. Several: `{"format": …, "tests": [result, …]}`, in the order in which they ended."""
    document: Any = results[0] if len(results) == 1 else {"format": FORMAT, "tests": list(results)}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def as_html(results: Sequence[Result], earlier: Earlier | None = None) -> str:
    """One page for all load tests, with nothing loaded from anywhere."""
    from .html_report import render  # jinja2, only where it is asked for

    return render(results, earlier)


WRITERS: Mapping[str, Callable[[Sequence[Result], Earlier | None], str]] = {".json": as_json, ".html": as_html}


def check_report_path(path: str) -> Path:
    """A path of `--cb-report`, whose extension names the form; raises `ReportError` that names the valid ones."""
    checked = Path(path)
    if checked.suffix.lower() not in WRITERS:
        valid = " or ".join(WRITERS)
        raise ReportError(f"--cb-report={path}: the extension {checked.suffix or '(none)'!r} is unknown; use {valid}")
    if checked.is_dir():
        raise ReportError(f"--cb-report={path}: is a directory; name a file")
    return checked


def write_report(path: Path, results: Sequence[Result], earlier: Earlier | None = None) -> None:
    """Writes the results in the form that the extension names, making parent directories. Raises `ReportError`."""
    text = WRITERS[path.suffix.lower()](results, earlier)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ReportError(
            f"--cb-report={path}: cannot be written: {error.strerror}; name a file that you may write"
        ) from error
