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

Result = Mapping[str, Any]

RESULT_KEYS = (
    "seed",
    "processes",
    "shards",
    "workers",
    "created_seconds",
    "run_seconds",
    "total_seconds",
    "processes_per_second",
    "commands_per_second",
    "outcomes",
    "steps",
    "retries",
    "in_troubleshooting",
    "peak_backlog",
    "thresholds",
    "environment",
)
QUANTILES = ("p50", "p95", "p99")
LABEL = 15
LATENCY_IS = "latency: from the claim of an attempt to its outcome, waiting in the worker included"


class ReportError(Exception):
    """A report could not be asked for or written in this form."""


def rate(count: float, seconds: float) -> float:
    """Events a second; 0 where no time passed."""
    return round(count / seconds, 1) if seconds > 0 else 0.0


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


def _head(result: Result) -> list[str]:
    created, ran = result["created_seconds"], result["run_seconds"]
    environment = result["environment"]
    size = f"{counted(result['processes'], 'process', 'processes')}, {counted(result['shards'], 'shard')}"
    lines = [
        f"{environment['test']}: {size}, {counted(result['workers'], 'worker')}, seed {result['seed']}",
        _labelled("created", f"{seconds(created)}, {number(rate(result['processes'], created))} processes/s"),
        _labelled(
            "run",
            f"{seconds(ran)}, {number(result['processes_per_second'])} processes/s, "
            f"{number(result['commands_per_second'])} commands/s; {seconds(result['total_seconds'])} in all",
        ),
    ]
    skipped = environment.get("skipped_seconds", 0)
    lines.append(_labelled("time skipped", seconds(skipped) if skipped else "none"))
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
    quantiles = "".join(f"{name:>9}" for name in QUANTILES)
    lines = [f"  {'latency in ms':<{max(width + 2, LABEL)}}{quantiles}   outcomes of its attempts"]
    for name, step in steps.items():
        figures = "".join(f"{_milliseconds(step['latency_ms'].get(q)):>9}" for q in QUANTILES)
        lines.append(f"    {name:<{max(width, LABEL - 2)}}{figures}   {_counts(step['outcomes'])}")
    return [*lines, f"    ({LATENCY_IS})"]


def _milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}"


def terminal_lines(result: Result) -> list[str]:
    """The section of one load test in the terminal summary."""
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
    ]


def junit_properties(result: Result) -> list[tuple[str, str]]:
    """The same figures, flat, as (name, value) for junit's properties."""
    flat = [(f"cb_load_{key}", str(result[key])) for key in RESULT_KEYS if isinstance(result[key], int | float)]
    flat += [(f"cb_load_outcome_{name}", str(count)) for name, count in result["outcomes"].items()]
    for step, figures in result["steps"].items():
        flat += [(f"cb_load_{step}_{name}_ms", str(value)) for name, value in figures["latency_ms"].items()]
    return flat


def as_json(results: Sequence[Result]) -> str:
    """One load test: its result. Several: `{"tests": [result, …]}`, in the order in which they ended."""
    document: Any = results[0] if len(results) == 1 else {"tests": list(results)}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


WRITERS: Mapping[str, Callable[[Sequence[Result]], str]] = {".json": as_json}


def check_report_path(path: str) -> Path:
    """A path of `--cb-report`, whose extension names the form; raises `ReportError` that names the valid ones."""
    checked = Path(path)
    if checked.suffix.lower() not in WRITERS:
        valid = ", ".join(WRITERS)
        raise ReportError(f"--cb-report={path}: the extension {checked.suffix or '(none)'!r} is unknown; use {valid}")
    if checked.is_dir():
        raise ReportError(f"--cb-report={path}: is a directory; name a file")
    return checked


def write_report(path: Path, results: Sequence[Result]) -> None:
    """Writes the results in the form that the extension names, making parent directories. Raises `ReportError`."""
    text = WRITERS[path.suffix.lower()](results)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ReportError(f"--cb-report={path}: cannot be written: {error.strerror}") from error
