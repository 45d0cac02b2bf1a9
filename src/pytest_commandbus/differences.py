"""What pytest shows of two counts, or of prediction and observation, that should have been equal: where they differ."""

from collections.abc import Mapping
from typing import Any

SHOWN = 5


def explain(op: str, left: object, right: object) -> list[str] | None:
    """Return the lines that explain why `left op right` does not hold; None where pytest's own are as good."""
    if op != "==":
        return None
    from .batch_handle import BatchStats
    from .oracle import Prediction

    if isinstance(left, BatchStats) or isinstance(right, BatchStats):
        stats, expected = (left, right) if isinstance(left, BatchStats) else (right, left)
        return _of_stats(stats, expected)
    if isinstance(left, Prediction) and isinstance(right, Prediction):
        return _of_predictions(left, right)
    return None


def _of_stats(stats: Any, expected: object) -> list[str] | None:
    from .batch_handle import BatchStats

    if isinstance(expected, BatchStats):
        wanted: Mapping[Any, Any] = {name: getattr(expected, name) for name in BatchStats.field_names()}
    elif isinstance(expected, Mapping):
        wanted = expected
    else:
        return None
    unknown = [repr(name) for name in wanted if name not in BatchStats.field_names()]
    if unknown:
        counts = ", ".join(name for name in BatchStats.field_names() if name.endswith("_count"))
        return [f"the counts of a batch: there is no {', '.join(unknown)}", f"there are {counts}"]
    lines = [
        f"{name}: {getattr(stats, name)!r}, expected {value!r}"
        for name, value in wanted.items()
        if getattr(stats, name) != value
    ]
    return ["the counts of the batch differ", *lines, f"in full: {stats!r}"]


def _of_predictions(left: Any, right: Any) -> list[str]:
    lines = []
    if len(left.processes) != len(right.processes):
        lines.append(f"number of processes: {len(left.processes)} == {len(right.processes)}")
    ours, theirs = ({p.ordinal: p for p in side.processes} for side in (left, right))
    differing = [o for o in sorted(ours.keys() | theirs.keys()) if ours.get(o) != theirs.get(o)]
    lines += [f"process {o}: {_process(ours.get(o))} == {_process(theirs.get(o))}" for o in differing[:SHOWN]]
    if len(differing) > SHOWN:
        lines.append(f"and {len(differing) - SHOWN} more")
    outcomes = sorted(left.outcomes.keys() | right.outcomes.keys())
    changed = [o for o in outcomes if left.outcomes.get(o, 0) != right.outcomes.get(o, 0)]
    lines += [f"{o} in all: {left.outcomes.get(o, 0)} == {right.outcomes.get(o, 0)}" for o in changed]
    if left.retries != right.retries:
        lines.append(f"retries in all: {left.retries} == {right.retries}")
    return [f"{len(differing)} of {max(len(ours), len(theirs))} processes differ", *lines]


def _process(process: Any) -> str:
    if process is None:
        return "(none)"
    where = f" at {process.failing_step}" if process.failing_step else ""
    failures = ", ".join(f"{count} x {step}" for step, count in process.failures.items())
    return f"{process.outcome}{where}" + (f" (failures: {failures})" if failures else "")
