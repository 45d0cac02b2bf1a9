"""Tests under Hypothesis's @given: every example has a fresh database, and the fixtures of the bus anew on it.

Hypothesis calls the body of such a test again and again, with the same fixtures. So the call is wrapped: an example
begins with a database as the template is, numbers its batches from 1 (chaos rolls by that number), and ends as a test
does, workers stopped and the database audited. The same draws and the same seed then have the same outcome.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from . import keeping, markers

if TYPE_CHECKING:
    from .keeping import Lent
    from .runtime import Runtime

_OURS = __name__.partition(".")[0]


def relax_settings(item: pytest.Item) -> None:
    """Let Hypothesis run a test that uses the bus: examples take as long as they take, and our fixtures are made anew.

    Hundreds of examples only to say which parts of the smallest one matter (the phase explain) are not worth it here.
    What the test was given by @settings stays, and so does the health check of function-scoped fixtures in a test that
    asks for somebody else's.
    """
    if not isinstance(item, pytest.Function) or not markers.uses_plugin(item) or markers.given_body(item) is None:
        return
    from hypothesis import HealthCheck, Phase, settings

    function: Any = getattr(item.obj, "__func__", item.obj)
    given: settings = function._hypothesis_internal_use_settings
    suppressed = set(given.suppress_health_check)
    asked = _function_scoped(item)
    if asked and all(asked.values()):
        suppressed.add(HealthCheck.function_scoped_fixture)
    usual: Any = settings.default
    phases = [phase for phase in given.phases if phase is not Phase.explain]
    function._hypothesis_internal_use_settings = settings(
        parent=given,
        deadline=None if given.deadline == usual.deadline else given.deadline,
        phases=phases if given.phases == usual.phases else given.phases,
        suppress_health_check=sorted(suppressed, key=lambda check: check.name),
    )


def running(item: pytest.Function, first: "Runtime") -> Iterator[None]:
    """Run a test under @given, each example on a runtime of its own; `first` is the one that the fixtures stand on.

    Errors: pytest.UsageError for what examples cannot have.
    """
    from . import ending

    _refuse(item, first)
    handle: Any = getattr(item.obj, "hypothesis")  # noqa: B009 - mypy knows no such attribute of a function
    body = handle.inner_test
    examples = _Examples(item, first)
    item.addfinalizer(examples.let_go)
    handle.inner_test = examples.around(body)
    try:
        yield
    except BaseException as error:
        examples.last.finish_interrupted(error)
        raise
    finally:
        handle.inner_test = body
    ending.refuse_idle(examples.idle)


class _Examples:
    """The examples of one test, one after the other."""

    def __init__(self, item: pytest.Function, first: "Runtime") -> None:
        self._item = item
        self._first = first
        self._databases = first.run.databases()
        self._held: Lent | None = None  # that of the last example that failed
        self._idle: set[str] | None = None

    @property
    def idle(self) -> list[str]:
        """What the test's markers say that was for nothing that ran, in any example."""
        return sorted(self._idle or ())

    @property
    def last(self) -> "Runtime":
        """The runtime of the last example."""
        from .lifecycle import RUNTIME

        return self._item.stash[RUNTIME]

    def around(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """Return the body as Hypothesis is to call it: async if it is."""
        from . import lifecycle

        @functools.wraps(body)
        async def example(*args: Any, **kwargs: Any) -> None:
            __tracebackhide__ = True
            with self._one() as runtime:
                await lifecycle.with_end(body, runtime)(*args, **_anew(kwargs, runtime))

        @functools.wraps(body)
        def plain_example(*args: Any, **kwargs: Any) -> None:
            __tracebackhide__ = True
            with self._one() as runtime, lifecycle.ending_plain(runtime):
                body(*args, **_anew(kwargs, runtime))

        return example if inspect.iscoroutinefunction(body) else plain_example

    @contextmanager
    def _one(self) -> "Iterator[Runtime]":
        """Lend an example its database; that of one that failed is held for the failure report and --cb-keep."""
        from . import ending
        from .lifecycle import RUNTIME

        lent = keeping.Lent(self._databases.acquire())
        runtime = self._item.stash[RUNTIME] = self._first.successor(lent.database)
        try:
            yield runtime
        except BaseException as error:
            if isinstance(error, pytest.fail.Exception):
                error.pytrace = True  # without, pytest would not show the example either
            if ending.is_failure(error):
                self.let_go()
                self._held = self._item.stash[keeping.LENT] = lent
            else:
                self._databases.release(lent.database)
            raise
        self._databases.release(lent.database)
        self._idle = set(runtime.idle_markers) & (set(runtime.idle_markers) if self._idle is None else self._idle)

    def let_go(self) -> None:
        """Give back the database that is held; it stays if a report has told of it with --cb-keep."""
        held, self._held = self._held, None
        if held is not None:
            self._databases.release(held.database, keep=held.failed)


def _refuse(item: pytest.Function, first: "Runtime") -> None:
    from .handles import HANDLES

    where = f"{item.nodeid}: each example of @given begins with a fresh database"
    for name, is_ours in _function_scoped(item).items():
        if is_ours and name not in HANDLES:
            raise pytest.UsageError(f"{where}, and {name} works on one for the whole test: use it in a test of its own")
    if markers.database_scope(item) != "function":
        raise pytest.UsageError(f"{where}: remove the marker cb_database, which shares one among tests")
    if first.used:
        raise pytest.UsageError(f"{where}, and a fixture has used the one before the first example: do it in the test")


def _anew(kwargs: Mapping[str, Any], runtime: "Runtime") -> dict[str, Any]:
    from .handles import HANDLES

    return {name: HANDLES[name](runtime) if name in HANDLES else value for name, value in kwargs.items()}


def _function_scoped(item: pytest.Function) -> dict[str, bool]:
    """Return the function-scoped fixtures that the test itself asks for, and whether each is ours."""
    manager = item.session._fixturemanager
    asked = {name: manager.getfixturedefs(name, item) for name in inspect.signature(item.function).parameters}
    return {
        name: definitions[-1].func.__module__.partition(".")[0] == _OURS
        for name, definitions in asked.items()
        if definitions and definitions[-1].scope == "function"
    }
