"""The markers of the plugin: registered, read and checked here."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import pytest

from .profiles import FIXTURE
from .run import RUN

if TYPE_CHECKING:
    from .faults.rules import FaultRule

DESCRIPTIONS = (
    'chaos(*profiles, **steps): what chaos does to a step or command type, such as render={"fail_transient_pct": 30}',
    'faults(**kinds): faults of the machinery, such as kill={"at": "after_claim", "pct": 20}, terminate={"rate": 2}',
    "cb_crash_matrix(points=[...]): run the test once for each named point, with a worker process killed there",
    "load(real_time=False, **limits): a load test, run with --cb-load[=N]; real_time=True: waits take their real time",
    "cb_clock: skip time to the next due moment whenever nothing is due (on by default in chaos and load tests)",
    'cb_database(scope="module"): share one database among the tests of a module, a class or the session',
    "cb_no_audit: do not audit the database at the end of this test",
)
DATABASE_SCOPES = ("function", "class", "module", "package", "session")
_FIXTURE_PREFIX = "cb_"
_NAMES = ("chaos", "faults", "cb_crash_matrix", "load", "cb_clock", "cb_database", "cb_no_audit")
_FAULTS_FIXTURE, _CRASH_POINT_FIXTURE = "cb_faults", "_cb_crash_point"
_PROBLEM = pytest.StashKey[pytest.UsageError]()


class LoadMarker(NamedTuple):
    """What `@pytest.mark.load(...)` says. limits: its thresholds, by name."""

    real_time: bool
    limits: Mapping[str, float]


class ChaosMarker(NamedTuple):
    """What one `@pytest.mark.chaos(...)` says: names of profiles, and the behaviors that are laid over theirs."""

    profiles: tuple[str, ...]
    steps: Mapping[str, Any]


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


def given_body(item: pytest.Item) -> Callable[..., Any] | None:
    """Return the test function that Hypothesis's @given calls with each example, None for another test."""
    function = getattr(item, "obj", None)
    if not getattr(function, "is_hypothesis_test", False):
        return None
    body: Callable[..., Any] | None = getattr(getattr(function, "hypothesis", None), "inner_test", None)
    return body


def is_async_test(item: pytest.Item) -> bool:
    """Tell whether the test is an `async def` function, by itself or under @given."""
    return isinstance(item, pytest.Function) and inspect.iscoroutinefunction(given_body(item) or item.obj)


def needs_asyncio_marker(item: object) -> TypeGuard[pytest.Function]:
    """Tell whether pytest-asyncio must be told to run this test: it is async, uses the plugin, and nobody said how."""
    return (
        isinstance(item, pytest.Function)
        and is_async_test(item)
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
    """Check profile and markers of every test at collection. Errors: pytest.UsageError, naming test and mending.

    An xdist worker cannot tell the user at collection: there it is the test itself that will raise the error.
    """
    asked = bool(items) and items[0].config.stash[RUN].options.chaos is not None
    unbrought = asked and not any(map(_brings_profiles, items))
    for item in items:
        try:
            if unbrought:
                _check_run_profile(item)
            _check_item(item)
        except pytest.UsageError as error:
            if not hasattr(item.config, "workerinput"):
                raise
            item.stash[_PROBLEM] = error


def refuse_wrong_test(item: pytest.Item) -> None:
    """Raise what was found wrong with a test at collection, if it could not be told there."""
    problem = item.stash.get(_PROBLEM, None)
    if problem is not None:
        raise problem


def _check_item(item: pytest.Item) -> None:
    for marker in chaos_markers(item):
        _check_profiles(item, marker.profiles, f"{item.nodeid}: @pytest.mark.chaos")
        _check_behaviors(item, marker.steps)
    load_marker(item)
    database_scope(item)
    _check_faults(item)
    for name in ("cb_clock", "cb_no_audit"):
        bare = item.get_closest_marker(name)
        if bare is not None and (bare.args or bare.kwargs):
            raise pytest.UsageError(f"{item.nodeid}: the marker {name} takes no arguments: write @pytest.mark.{name}")


def chaos_markers(item: pytest.Item) -> Iterator[ChaosMarker]:
    """Yield what each chaos marker says, the farthest marker first."""
    for marker in reversed(list(item.iter_markers("chaos"))):
        if not all(isinstance(name, str) for name in marker.args) or not (marker.args or marker.kwargs):
            raise pytest.UsageError(
                f"{item.nodeid}: @pytest.mark.chaos takes steps by keyword, and at least one, or names of profiles: "
                'write @pytest.mark.chaos(render={"fail_transient_pct": 30}), or @pytest.mark.chaos("flaky-render")'
            )
        yield ChaosMarker(marker.args, marker.kwargs)


def has_faults(item: pytest.Item) -> bool:
    """Tell whether faults may be injected in this test."""
    marked = any(item.get_closest_marker(name) is not None for name in ("faults", "cb_crash_matrix"))
    return marked or _FAULTS_FIXTURE in getattr(item, "fixturenames", ())


def fault_rules(item: pytest.Item) -> "list[FaultRule]":
    """Return what the fault markers of a test say, kind by kind the nearest, and the kill of a crash matrix.

    Errors: pytest.UsageError.
    """
    from .faults.rules import FaultUsageError, rule_of, rules_of_marker

    kinds: dict[str, Any] = {}
    for marker in reversed(list(item.iter_markers("faults"))):
        if marker.args or not marker.kwargs:
            raise pytest.UsageError(
                f"{item.nodeid}: @pytest.mark.faults takes kinds of faults by keyword, and at least one: write "
                '@pytest.mark.faults(kill={"at": "before_settle"})'
            )
        kinds |= marker.kwargs
    try:
        rules = rules_of_marker(kinds, f"{item.nodeid}: @pytest.mark.faults")
    except FaultUsageError as error:
        raise pytest.UsageError(str(error)) from None
    point = crash_point(item)
    return rules if point is None else [*rules, rule_of("kill", {"at": point}, "@pytest.mark.cb_crash_matrix")]


def crash_point(item: pytest.Item) -> str | None:
    """Return the point of an item of a crash matrix, None for any other test."""
    callspec = getattr(item, "callspec", None)
    return None if callspec is None else callspec.params.get(_CRASH_POINT_FIXTURE)


def needs_private_server(item: pytest.Item) -> bool:
    """Tell whether a test may crash the server, so that it needs one of its own."""
    from .faults.rules import OF_SERVER

    if load_marker(item) is not None:
        return False
    marked = {kind for marker in item.iter_markers("faults") for kind in marker.kwargs}
    return _FAULTS_FIXTURE in getattr(item, "fixturenames", ()) or bool(marked & OF_SERVER)


def needs_proxy(item: pytest.Item) -> bool:
    """Tell whether the network between workers and server may fail in a test."""
    marked = any("network" in marker.kwargs for marker in item.iter_markers("faults"))
    return marked or _FAULTS_FIXTURE in getattr(item, "fixturenames", ())


def parametrize_crash_points(metafunc: pytest.Metafunc) -> None:
    """Make one item a point of each crash matrix."""
    marker = metafunc.definition.get_closest_marker("cb_crash_matrix")
    if marker is None:
        return
    from .faults.points import POINTS

    points = marker.kwargs.get("points", POINTS)
    wrong = [] if isinstance(points, str) else [point for point in points if point not in POINTS]
    if marker.args or set(marker.kwargs) - {"points"} or isinstance(points, str) or wrong or not points:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: the marker cb_crash_matrix takes points=[…], some of {', '.join(POINTS)}"
            + (f"; {wrong[0]!r} is none" if wrong else "")
        )
    if _CRASH_POINT_FIXTURE not in metafunc.fixturenames:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: a crash matrix needs workers: let the test ask for cb_process_batch, "
            "cb_command_batch or cb_worker_pool"
        )
    metafunc.parametrize(_CRASH_POINT_FIXTURE, list(dict.fromkeys(points)), indirect=True)


def load_marker(item: pytest.Item) -> LoadMarker | None:
    """Return what the nearest load marker says, None without one."""
    marker = item.get_closest_marker("load")
    if marker is None:
        return None
    from .thresholds import KINDS, problem_with

    known = ("real_time", *KINDS)
    given = dict(marker.kwargs)
    unknown = [name for name in given if name not in known]
    real_time = given.pop("real_time", False)
    if marker.args or unknown:
        what = f"{unknown[0]!r}" if unknown else "a positional argument"
        raise pytest.UsageError(
            f"{item.nodeid}: the marker load does not know {what}: it takes {', '.join(known)}, by keyword"
        )
    problems = [f"real_time={real_time!r} is neither True nor False"] if not isinstance(real_time, bool) else []
    limits = {name: limit for name, limit in given.items() if limit is not None}
    problems += [problem for name, limit in limits.items() if (problem := problem_with(name, limit)) is not None]
    if problems:
        raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.load: {'; '.join(problems)}")
    return LoadMarker(real_time=real_time, limits=limits)


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
    if item.config.stash[RUN].options.chaos is not None:
        return True
    return (
        has_faults(item)
        or "cb_chaos" in getattr(item, "fixturenames", ())
        or any(item.get_closest_marker(name) is not None for name in ("chaos", "load", "cb_clock"))
    )


def _check_faults(item: pytest.Item) -> None:
    if not has_faults(item):
        return
    from .faults.rules import OF_SERVER

    rules = fault_rules(item)
    on_server = [rule.kind for rule in rules if rule.kind in OF_SERVER]
    if load_marker(item) is not None and on_server:
        raise pytest.UsageError(
            f"{item.nodeid}: {on_server[0]} needs a server of the test's own, and the shards of a load test share one: "
            "leave it out, or the marker load"
        )
    if needs_private_server(item) and database_scope(item) != "function":
        raise pytest.UsageError(
            f"{item.nodeid}: a test that may crash its server shares no database: remove the marker cb_database"
        )


def _check_profiles(item: pytest.Item, names: Iterable[str], who: str) -> None:
    """Check the profiles of these names now, but for those that a fixture of the test may bring."""
    profiles = item.config.stash[RUN].profiles
    for name in names:
        if profiles.has(name) or not _brings_profiles(item):
            profiles.get(name, who).behaviors()


def _check_run_profile(item: pytest.Item) -> None:
    """Refuse an unknown profile of --cb-chaos, which no fixture of a test can bring."""
    run = item.config.stash[RUN]
    if run.options.chaos is not None and uses_plugin(item):
        run.profiles.get(run.options.chaos, "--cb-chaos")


def _brings_profiles(item: pytest.Item) -> bool:
    definitions = item.session._fixturemanager.getfixturedefs(FIXTURE, item)
    return definitions is not None and len(definitions) > 1  # the plugin's own is one


def _check_behaviors(item: pytest.Item, rules: Mapping[str, Any]) -> None:
    from .chaos import ChaosUsageError, behavior_of  # pydantic, only where there is chaos

    for step, behavior in rules.items():
        try:
            behavior_of(behavior, f"{item.nodeid}: @pytest.mark.chaos({step}=…)")
        except ChaosUsageError as error:
            raise pytest.UsageError(str(error)) from None
