"""How a test that uses the plugin begins and ends, told in terms of pytest's items and reports."""

import functools
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from . import examples, keeping, markers, run

if TYPE_CHECKING:
    from .runtime import Runtime

RUNTIME = pytest.StashKey["Runtime"]()
_PACKAGE = Path(__file__).parent
SEED_SECTION = "commandbus: seed"


def require_asyncio_plugin(config: pytest.Config) -> None:
    """Register pytest-asyncio where it was not loaded by itself, unless the user turned it off."""
    manager = config.pluginmanager
    if manager.is_blocked("asyncio"):
        return
    from pytest_asyncio import plugin

    if not manager.is_registered(plugin):
        manager.register(plugin, "asyncio")


def quiet_asyncio_plugin() -> None:
    """Keep pytest-asyncio, which we bring along, from warning of an option that plain projects never set."""
    warnings.filterwarnings("ignore", message='The configuration option "asyncio_default_fixture_loop_scope" is unset')


@contextmanager
def ending_within(item: pytest.Item) -> Iterator[None]:
    """Run the test such that what its fixtures opened ends with its body: an async test's on its own loop."""
    runtime = item.stash.get(RUNTIME, None)
    if runtime is None or not isinstance(item, pytest.Function):
        yield
        _refuse_idle(item)
    elif markers.given_body(item) is not None:
        yield from examples.running(item, runtime)
    elif markers.is_async_test(item):
        body = item.obj
        item.obj = with_end(body, runtime)
        try:
            yield
        except BaseException as error:
            runtime.finish_interrupted(error)
            raise
        finally:
            item.obj = body
    else:
        with ending_plain(runtime):
            yield


def say_only_what_to_mend(call: pytest.CallInfo[None], report: pytest.TestReport) -> None:
    """Show an error that our own fixtures raise, such as for a missing server, by its message: not where in us it was.

    A test's own call of ours is another thing: there one wants to see which call it was.
    """
    excinfo = call.excinfo
    if report.when != "setup" or excinfo is None:
        return
    from .postgres.errors import PostgresError

    if not isinstance(excinfo.value, pytest.UsageError | PostgresError):
        return
    if _PACKAGE in Path(str(excinfo.traceback[-1].path)).parents:
        report.longrepr = excinfo.getrepr(style="value", chain=False)


def add_sections(item: pytest.Item, report: pytest.TestReport) -> None:
    """Put seed, re-run line, batch stats, timelines and worker logs into the report of a test that failed."""
    if not report.failed or not markers.uses_plugin(item):
        return
    config = item.config
    this = config.stash[run.RUN]
    line = run.rerun_line(config, item.nodeid)
    properties = [("cb_seed", this.seed), ("cb_run_again", line)]
    item.user_properties.extend(p for p in properties if p not in item.user_properties)
    profile = "" if this.options.chaos is None else f", chaos profile {this.options.chaos}"
    report.sections.append((SEED_SECTION, f"seed {this.seed}{profile}, run again with:\n{line}"))
    kept = keeping.keep(item)
    if kept is not None:
        report.sections.append(("commandbus: kept database", kept))
    runtime = item.stash.get(RUNTIME, None)
    if runtime is not None:
        if report.when == "setup":
            runtime.explain_failed_setup()
        report.sections.extend(runtime.sections)
        runtime.sections = []  # told; what fails after it has its own


def explain(op: str, left: object, right: object) -> list[str] | None:
    """Return what pytest is to show of a comparison that does not hold, None for those that are not ours."""
    package = __package__ or ""
    if not any(type(side).__module__.startswith(package) for side in (left, right)):
        return None  # and nothing is imported for it
    from . import differences

    return differences.explain(op, left, right)


def _refuse_idle(item: pytest.Item) -> None:
    for name, what in (("chaos", "matched nothing that ran"), ("faults", "was never injected")):
        if item.get_closest_marker(name) is not None:
            pytest.fail(
                f"@pytest.mark.{name} {what}: the test uses no fixture of the bus. Remove the marker, or "
                "run workers by cb_process_batch, cb_command_batch or cb_worker_pool",
                pytrace=False,
            )


def with_end(body: Callable[..., Awaitable[Any]], runtime: "Runtime") -> Callable[..., Awaitable[None]]:
    """Return the body of an async test, followed by the end of what it opened."""

    @functools.wraps(body)
    async def test_with_end(*args: Any, **kwargs: Any) -> None:
        __tracebackhide__ = True
        try:
            await body(*args, **kwargs)
        except BaseException as error:
            await runtime.finish(error)
            raise
        await runtime.finish(None)

    return test_with_end


@contextmanager
def ending_plain(runtime: "Runtime") -> Iterator[None]:
    """End what a plain test opened, after its body."""
    try:
        yield
    except BaseException as error:
        runtime.finish_plain(error)
        raise
    runtime.finish_plain(None)
