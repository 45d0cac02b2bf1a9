"""The hooks of the plugin: each says when, and delegates what."""

from collections.abc import Generator
from typing import Any

import pytest

from . import examples, keeping, lifecycle, load_session, markers, options, run, xdist


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare options and ini keys."""
    options.add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Bring pytest-asyncio along where plugins are not loaded by themselves."""
    lifecycle.require_asyncio_plugin(early_config)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Read the options and make the run."""
    lifecycle.quiet_asyncio_plugin()
    markers.register_markers(config)
    run.start_run(config)
    load_session.start(config)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End the run's server."""
    load_session.end(config)
    run.end_run(config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand the run on to an xdist worker."""
    run.tell_worker(node)


@pytest.hookimpl(wrapper=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> Generator[None, None, None]:
    """Let pytest-asyncio parametrize our async tests as its own; make the items of crash matrices and load tests."""
    markers.add_asyncio_marker(metafunc.definition)
    markers.parametrize_crash_points(metafunc)
    xdist.parametrize_shards(metafunc)
    return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pycollect_makeitem() -> Generator[None, Any, Any]:
    """Mark our async tests before pytest-asyncio looks at them: the last wrapper is the innermost."""
    nodes = yield
    markers.add_asyncio_marker(nodes)
    return nodes


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Refuse wrong markers before anything runs, skip load tests that nobody asked for, ready those of @given."""
    markers.check_markers(items)
    load_session.skip_load_tests(config, items)
    for item in items:
        examples.relax_settings(item)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tell on an xdist worker what is wrong with a test's markers."""
    markers.refuse_wrong_test(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """End a test's pools, workers and audit within the test, on its own loop."""
    with lifecycle.ending_within(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a failure what one needs to understand it and to run it again."""
    report = yield
    lifecycle.say_only_what_to_mend(call, report)
    lifecycle.add_sections(item, report)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the controller what it must know of this xdist worker."""
    keeping.tell_controller(session.config)
    load_session.publish_from_worker(session.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what an xdist worker tells at its end."""
    keeping.take_from_worker(node)
    load_session.take_from_worker(node)


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Show where counts of a batch, or prediction and observation, differ."""
    return lifecycle.explain(op, left, right)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell the results of load tests, and of kept databases."""
    load_session.summarize(terminalreporter.config, terminalreporter)
    keeping.summarize(terminalreporter)
