"""The markers of the plugin: registered, read and checked here."""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import pytest

DESCRIPTIONS = (
    'chaos(**steps): what chaos does to a step or command type, such as render={"fail_transient_pct": 30}',
    "load(real_time=False): a load test, run with --cb-load[=N]; real_time=True lets waits take their real time",
    "cb_clock: skip time to the next due moment whenever nothing is due (on by default in chaos and load tests)",
    'cb_database(scope="module"): share one database among the tests of a module, a class or the session',
    "cb_no_audit: do not audit the database at the end of this test",
)
DATABASE_SCOPES = ("function", "class", "module", "package", "session")
_FIXTURE_PREFIX = "cb_"
_NAMES = ("chaos", "load", "cb_clock", "cb_database", "cb_no_audit")
_ASYNC_BY_MARKER = ("chaos", "load")


@dataclass(frozen=True)
class LoadMarker:
    """What `@pytest.mark.load(...)` says."""

    real_time: bool = False


def register_markers(config: pytest.Config) -> None:
    """Make the markers known, so that --strict-markers accepts them."""
    for description in DESCRIPTIONS:
        config.addinivalue_line("markers", description)


def uses_plugin(item: pytest.Item) -> bool:
    """Tell whether a test uses a fixture or a marker of the plugin."""
    fixtures = getattr(item, "fixturenames", ())
    return any(name.startswith(_FIXTURE_PREFIX) for name in fixtures) or any(
        item.get_closest_marker(name) is not None for name in _NAMES
    )


def is_async_test(item: pytest.Item) -> bool:
    """Tell whether the test is an `async def` function."""
    return isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj)


def needs_asyncio_marker(item: object) -> TypeGuard[pytest.Function]:
    """Tell whether pytest-asyncio must be told to run this test: it is async, uses the plugin, and nobody said how."""
    return (
        isinstance(item, pytest.Function)
        and inspect.iscoroutinefunction(item.obj)
        and item.get_closest_marker("asyncio") is None
        and item.get_closest_marker("anyio") is None
        and uses_plugin(item)
    )


def add_asyncio_marker(nodes: object) -> None:
    """Add the asyncio marker to every collected test that needs it."""
    for node in nodes if isinstance(nodes, list) else [nodes]:
        if needs_asyncio_marker(node):
            node.add_marker("asyncio")


def check_markers(items: list[pytest.Item]) -> None:
    """Check the arguments of every marker at collection. Errors: pytest.UsageError, naming test, marker and mending."""
    for item in items:
        for rules in chaos_markers(item):
            _check_behaviors(item, rules)
        load_marker(item)
        database_scope(item)
        for name in ("cb_clock", "cb_no_audit"):
            marker = item.get_closest_marker(name)
            if marker is not None and (marker.args or marker.kwargs):
                raise pytest.UsageError(
                    f"{item.nodeid}: the marker {name} takes no arguments: write @pytest.mark.{name}"
                )


def chaos_markers(item: pytest.Item) -> Iterator[Mapping[str, Any]]:
    """Yield {name of a step or command type: behavior} of each chaos marker, the farthest marker first."""
    for marker in reversed(list(item.iter_markers("chaos"))):
        if marker.args or not marker.kwargs:
            raise pytest.UsageError(
                f"{item.nodeid}: @pytest.mark.chaos takes steps by keyword, and at least one: "
                'write @pytest.mark.chaos(render={"fail_transient_pct": 30})'
            )
        yield marker.kwargs


def load_marker(item: pytest.Item) -> LoadMarker | None:
    """Return what the nearest load marker says, None without one."""
    marker = item.get_closest_marker("load")
    if marker is None:
        return None
    known = LoadMarker.__dataclass_fields__
    unknown = [name for name in marker.kwargs if name not in known]
    if marker.args or unknown:
        what = f"{unknown[0]!r}" if unknown else "a positional argument"
        raise pytest.UsageError(
            f"{item.nodeid}: the marker load does not know {what}: it takes {', '.join(known)}, by keyword"
        )
    return LoadMarker(**marker.kwargs)


def database_scope(item: pytest.Item) -> str:
    """Return how widely the test's database is shared: one of DATABASE_SCOPES."""
    marker = item.get_closest_marker("cb_database")
    if marker is None:
        return "function"
    scope = marker.kwargs.get("scope")
    if marker.args or set(marker.kwargs) != {"scope"} or scope not in DATABASE_SCOPES:
        raise pytest.UsageError(
            f"{item.nodeid}: the marker cb_database takes scope=, one of {', '.join(DATABASE_SCOPES)}: "
            'write @pytest.mark.cb_database(scope="module")'
        )
    return str(scope)


def clock_is_skipped(item: pytest.Item) -> bool:
    """Tell whether waiting takes no real time in this test."""
    load = load_marker(item)
    if load is not None and load.real_time:
        return False
    return any(item.get_closest_marker(name) is not None for name in ("chaos", "load", "cb_clock"))


def _check_behaviors(item: pytest.Item, rules: Mapping[str, Any]) -> None:
    from .chaos import ChaosUsageError, behavior_of  # pydantic, only where there is chaos

    for step, behavior in rules.items():
        try:
            behavior_of(behavior, f"{item.nodeid}: @pytest.mark.chaos({step}=…)")
        except ChaosUsageError as error:
            raise pytest.UsageError(str(error)) from None
