"""The thresholds of a load test: what `@pytest.mark.load(...)` may ask for, and whether a result meets it. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .shown import shown

Result = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """One threshold. unit: of its limit. is_least: the figure must reach the limit, else it must not exceed it.

    figure: what of a result is judged, and the step that it is of ("" for none); None where there is nothing to judge.
    """

    unit: str
    is_least: bool
    most: float
    figure: Callable[[Result], tuple[float | None, str]]


def failed_pct(result: Result) -> float:
    """The percentage of processes that ended otherwise than COMPLETED; those that are parked count too."""
    processes = result["processes"]
    return round(100 * (processes - result["outcomes"].get("COMPLETED", 0)) / processes, 3) if processes else 0.0


def _slowest_p99(result: Result) -> tuple[float | None, str]:
    told = [(step["handling_ms"]["p99"], name) for name, step in result["steps"].items() if step["handling_ms"]]
    return max(told, default=(None, ""))


KINDS: Mapping[str, Kind] = {
    "p99_ms": Kind("ms", is_least=False, most=math.inf, figure=_slowest_p99),
    "min_per_second": Kind(
        "processes/s", is_least=True, most=math.inf, figure=lambda result: (result["processes_per_second"], "")
    ),
    "max_failed_pct": Kind("%", is_least=False, most=100, figure=lambda result: (failed_pct(result), "")),
    "max_seconds": Kind("s", is_least=False, most=math.inf, figure=lambda result: (result["total_seconds"], "")),
}


def problem_with(name: str, limit: object) -> str | None:
    """Return what is wrong with the limit of a threshold, None when it can be one."""
    kind = KINDS[name]
    wanted = f"a number of {kind.unit}, from 0 " + ("up" if math.isinf(kind.most) else f"to {kind.most:g}")
    if (
        isinstance(limit, bool)
        or not isinstance(limit, int | float)
        or not 0 <= limit <= kind.most
        or limit == math.inf
    ):
        return f"{name}={shown(limit)} is not {wanted}"
    return None


def judge(limits: Mapping[str, float], result: Result) -> list[dict[str, Any]]:
    """Each threshold with its name, limit, figure, whether it passed, and the step that the figure is of, if any.

    limits: by name. A threshold of which there is no figure did not pass.
    """
    judged = []
    for name, limit in limits.items():
        kind = KINDS[name]
        figure, step = kind.figure(result)
        passed = figure is not None and (figure >= limit if kind.is_least else figure <= limit)
        told = {"name": name, "limit": limit, "figure": figure, "passed": passed}
        judged.append({**told, "step": step} if step else told)
    return judged


def amount(name: str, value: float | None) -> str:
    """A limit or figure with its unit: '812.3 ms'."""
    if value is None:
        return "nothing"
    digits = 0 if float(value).is_integer() else 3 if abs(value) < 1 else 1
    return f"{value:,.{digits}f} {KINDS[name].unit}"


def told(threshold: Mapping[str, Any]) -> tuple[str, str]:
    """A judged threshold's figure and limit, as text."""
    name, step = threshold["name"], threshold.get("step")
    figure = amount(name, threshold["figure"]) + (f" in {step}" if step else "")
    return figure, f"at {'least' if KINDS[name].is_least else 'most'} {amount(name, threshold['limit'])}"


def broken_lines(results: Iterable[Result]) -> list[str]:
    """What to fail a test with: all thresholds that its runs broke, none when they met them all."""
    lines: list[str] = []
    for result in results:
        thresholds = result["thresholds"]
        broken = [threshold for threshold in thresholds if not threshold["passed"]]
        if broken:
            environment = result["environment"]
            lines.append(
                f"load run {environment['run']} of {environment['test']} broke {len(broken)} of "
                f"{len(thresholds)} thresholds:"
            )
            lines += [
                f"  {each['name']}: {figure}, limit: {limit}" for each in broken for figure, limit in [told(each)]
            ]
    return lines
