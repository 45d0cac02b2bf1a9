"""What holds for every run of the tests: patience, and what is printed at the end."""

import pytest
from hypothesis import settings

settings.register_profile("patient", settings(deadline=None))  # a busy machine proves nothing; in CI this holds anyway
if settings.default is not None and settings.default.deadline is not None:
    settings.load_profile("patient")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the mutants that were planted, each with the rule that named it."""
    reports = terminalreporter.getreports("passed")
    caught = [value for report in reports for name, value in report.user_properties if name == "mutant"]
    if caught:
        terminalreporter.section(f"{len(caught)} mutants of the bus, all caught by the audit")
        for name, place, rules, seed in sorted(caught):
            terminalreporter.line(f"{name:<48} {place:<34} {rules:<8} seed {seed}")
