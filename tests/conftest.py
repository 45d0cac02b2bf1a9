"""What holds for every run of the tests: patience, and what is printed at the end."""

import signal
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

# What a busy machine is slow at proves nothing. More examples: pytest --hypothesis-profile=deep tests/unit
_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fast", parent=_PATIENT, max_examples=40)
settings.register_profile("deep", parent=_PATIENT, max_examples=1_000, derandomize=False)
settings.load_profile("fast")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # else all that tests start would ignore it too


@pytest.fixture
def measured() -> None:
    """The processes that this test starts measure their coverage: for code that runs in such alone."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Without `measured` they do not: it is a quarter of their time, and the same code runs in this process as well."""
    with pytest.MonkeyPatch.context() as patch:
        if "measured" not in getattr(item, "fixturenames", ()):
            patch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
        return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the mutants that were planted, each with the rule that named it."""
    reports = terminalreporter.getreports("passed")
    caught = {tuple(value) for report in reports for name, value in report.user_properties if name == "mutant"}
    if caught:
        terminalreporter.section(f"{len(caught)} mutants of the bus, all caught by the audit")
        for name, place, rules, seed in sorted(caught):
            terminalreporter.line(f"{name:<48} {place:<34} {rules:<8} seed {seed}")
