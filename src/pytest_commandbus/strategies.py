"""Hypothesis strategies for chaos and for what it is done to. They need the extra: pytest-commandbus[hypothesis].

What is drawn are plain values, in the form in which one writes them: rules are the keywords of `@pytest.mark.chaos` and
of `cb_chaos`, batches those of `cb_process_batch` and `cb_command_batch`. So a falsifying example can be copied into a
test. All shrink towards less: fewer rules, fewer kinds of failure, failures that are certain, fewer processes.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from enum import Enum
from typing import Any

try:
    from hypothesis import strategies as st
    from hypothesis.errors import InvalidArgument
except ImportError as error:
    raise ImportError(
        "pytest_commandbus.strategies needs Hypothesis, which is not installed: "
        "pip install 'pytest-commandbus[hypothesis]'",
        name="hypothesis",
    ) from error

Behavior = dict[str, Any]
Data = st.SearchStrategy[dict[str, Any]] | Mapping[str, Any] | Callable[[int], Mapping[str, Any]] | None

FAILURES = ("fail_permanent_pct", "fail_transient_pct", "fail_business_rule_pct", "timeout_pct", "fail_transient_times")
"""The fields of a behavior that make attempts fail."""

_MOST_TIMES = 5
_MOST_MEMBERS = 20
_INT64 = 2**63

__all__ = ["FAILURES", "behaviors", "chaos_rules", "command_batches", "payloads", "percentages", "process_batches"]


def percentages() -> st.SearchStrategy[int]:
    """Percentages of attempts that something happens to; the simplest is 100, of all, which needs no luck."""
    return st.sampled_from([100, *range(1, 100)])


def behaviors(
    *,
    failures: Collection[str] = FAILURES,
    percentage: st.SearchStrategy[float] | None = None,
    max_duration_ms: int = 0,
) -> st.SearchStrategy[Behavior]:
    """Behaviors of a command: at least one way to fail, or with none allowed, a duration.

    failures: the fields that may be drawn, of `FAILURES`. percentage: draws theirs, `percentages()` when not given.
    max_duration_ms: above 0, a success may take up to so many milliseconds of real time. Errors: InvalidArgument.
    """
    unknown = [name for name in failures if name not in FAILURES]
    if unknown:
        raise InvalidArgument(f"behaviors(failures=…): {unknown[0]!r} is none of {', '.join(FAILURES)}")
    if not failures and max_duration_ms <= 0:
        raise InvalidArgument("behaviors(): with failures=() give max_duration_ms, else there is nothing to draw")
    of_pct: st.SearchStrategy[float] = percentages() if percentage is None else percentage
    fields = {name: of_pct if name.endswith("_pct") else st.integers(1, _MOST_TIMES) for name in failures}
    drawn = _some(fields, 1, len(fields)) if fields else st.just({})
    if max_duration_ms <= 0:
        return drawn
    ends = st.tuples(*2 * [st.integers(0, max_duration_ms)]).map(sorted)
    durations = ends.map(lambda both: {"min_duration_ms": both[0], "max_duration_ms": both[1]})
    lasting = durations if not failures else st.just({}) | durations
    return st.tuples(drawn, lasting).map(lambda parts: {**parts[0], **parts[1]})


def chaos_rules(
    steps: Any,
    *,
    behavior: st.SearchStrategy[Behavior] | None = None,
    min_rules: int = 0,
    max_rules: int | None = None,
) -> st.SearchStrategy[dict[str, Behavior]]:
    """Chaos rules, {step: behavior}, as `cb_chaos(**rules)` takes them.

    steps: the class of a process manager or of its steps, or names of steps and command types. behavior: draws that of
    one step, `behaviors()` when not given. min_rules, max_rules: how many steps have one. Errors: InvalidArgument.
    """
    names = _step_names(steps)
    most = len(names) if max_rules is None else max_rules
    if not 0 <= min_rules <= most <= len(names):
        raise InvalidArgument(
            f"chaos_rules(min_rules={min_rules}, max_rules={max_rules}): there are {len(names)} steps to have one: "
            "let 0 <= min_rules <= max_rules <= that"
        )
    each = behaviors() if behavior is None else behavior
    return _some(dict.fromkeys(names, each), min_rules, most)


@st.composite
def process_batches(
    draw: st.DrawFn,
    manager: Any,
    *,
    min_count: int = 1,
    max_count: int = _MOST_MEMBERS,
    initial_data: Data = None,
) -> dict[str, Any]:
    """Batches of processes of a manager class, as `cb_process_batch(**batch)` takes them.

    min_count, max_count: how many processes. initial_data: a strategy that draws that of each process, or as
    cb_process_batch takes it: the same for all, or a function of the ordinal, which is better for large batches.
    """
    return {"manager": manager, **_members(draw, "initial_data", initial_data, min_count, max_count)}


@st.composite
def command_batches(
    draw: st.DrawFn,
    domain: str,
    command_types: str | Iterable[str],
    *,
    min_count: int = 1,
    max_count: int = _MOST_MEMBERS,
    data: Data = None,
) -> dict[str, Any]:
    """Batches of commands, as `cb_command_batch(**batch)` takes them.

    command_types: one, or several of which one is drawn for the batch. min_count, max_count: how many commands. data: a
    strategy that draws that of each command, such as `payloads()`, or as cb_command_batch takes it.
    """
    types = [command_types] if isinstance(command_types, str) else list(command_types)
    head = {"domain": domain, "command_type": draw(st.sampled_from(types))}
    return {**head, **_members(draw, "data", data, min_count, max_count)}


def payloads(*, max_fields: int = 5, max_leaves: int = 10) -> st.SearchStrategy[dict[str, Any]]:
    """Payloads of commands, or initial data of processes: JSON objects such as the bus stores and gives back unchanged.

    max_fields: of each object within. max_leaves: about how many values there are in all.
    """
    texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
    numbers = st.integers(-_INT64, _INT64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    values = st.recursive(
        st.none() | st.booleans() | numbers | texts,
        lambda inner: st.lists(inner, max_size=max_fields) | st.dictionaries(texts, inner, max_size=max_fields),
        max_leaves=max_leaves,
    )
    return st.dictionaries(texts, values, max_size=max_fields)


def _step_names(steps: Any) -> list[str]:
    given = getattr(steps, "step_class", steps)
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidArgument(
            f"chaos_rules({steps!r}): give the class of a process manager that has a plain step_class, the class of "
            "its steps, or a list of names"
        )
    names = [str(step.value) if isinstance(step, Enum) else str(step) for step in given]
    if not names:
        raise InvalidArgument(f"chaos_rules({steps!r}): there is no step in it")
    return list(dict.fromkeys(names))


def _some(fields: Mapping[str, st.SearchStrategy[Any]], least: int, most: int) -> st.SearchStrategy[dict[str, Any]]:
    """Draw values for some of the fields; the last ones where too few were taken.

    All are drawn, also those that are left out: so each can go by itself while Hypothesis shrinks.
    """
    flags = st.sampled_from([False, False, True])
    return st.fixed_dictionaries({name: st.tuples(flags, value) for name, value in fields.items()}).map(
        lambda drawn: _taken(drawn, least, most)
    )


def _taken(drawn: Mapping[str, tuple[bool, Any]], least: int, most: int) -> dict[str, Any]:
    taken: dict[str, Any] = {}
    for left, (name, (flag, value)) in zip(range(len(drawn), 0, -1), drawn.items(), strict=True):
        if left <= least - len(taken) or (flag and len(taken) < most):
            taken[name] = value
    return taken


def _members(draw: st.DrawFn, name: str, data: Data, least: int, most: int) -> dict[str, Any]:
    if isinstance(data, st.SearchStrategy):
        drawn = draw(st.lists(data, min_size=least, max_size=most))
        return {"count": len(drawn), name: drawn}
    count = draw(st.integers(least, most))
    return {"count": count} if data is None else {"count": count, name: data}
