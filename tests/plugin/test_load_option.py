"""--cb-load and --cb-report: what they take, what they refuse, and what becomes of load tests without them."""

import pytest

from pytest_commandbus.load_session import SKIP_REASON
from pytest_commandbus.report import as_json
from pytest_commandbus.run import RUN
from tests.unit.load_results import result as load_result

from .conftest import Suite

LOAD_TEST = """
@pytest.mark.load
async def test_orders(cb_load):
    await cb_load(OrderProcess)
"""


def test_without_the_option_a_load_test_is_skipped_and_told_how_to_run(suite: Suite) -> None:
    suite.write(LOAD_TEST)
    result = suite.run("-rs")
    result.assert_outcomes(skipped=1)
    assert "--cb-load=N" in SKIP_REASON
    result.stdout.fnmatch_lines([f"SKIPPED*{SKIP_REASON}"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("100001", "*argument --cb-load: 100001 is out of range: N goes from 1 to 100000*"),
        ("0", "*argument --cb-load: 0 is out of range: N goes from 1 to 100000*"),
        ("-5", "*argument --cb-load: -5 is out of range: N goes from 1 to 100000*"),
        ("x", "*argument --cb-load: 'x' is not a whole number: write --cb-load=N with N from 1 to 100000*"),
    ],
)
def test_a_number_of_processes_that_is_none_is_a_usage_error(suite: Suite, given: str, message: str) -> None:
    suite.write(LOAD_TEST)
    result = suite.run(f"--cb-load={given}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


@pytest.mark.parametrize(("option", "count"), [("--cb-load", 1_000), ("--cb-load=1", 1), ("--cb-load=100000", 100_000)])
def test_the_option_gives_the_number_of_processes(pytester: pytest.Pytester, option: str, count: int) -> None:
    config = pytester.parseconfigure(option)
    assert config.stash[RUN].options.load == count


@pytest.mark.parametrize(("path", "told"), [("out.xlsx", "'.xlsx'"), ("out", "'(none)'")])
def test_a_report_of_an_unknown_kind_is_a_usage_error_that_names_the_valid_ones(
    suite: Suite, path: str, told: str
) -> None:
    suite.write(LOAD_TEST)
    result = suite.run("--cb-load=1", f"--cb-report={path}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --cb-report={path}: the extension {told} is unknown; use .json or .html"])


def test_a_report_that_nobody_could_fill_is_told(suite: Suite) -> None:
    suite.write("def test_nothing():\n    pass\n", head="")
    (suite.pytester.path / "old.json").write_text(as_json([load_result()]))
    result = suite.run("--cb-report=out.json", "--cb-compare=old.json")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "commandbus: *out.json was not written: no load test ran to its end",
            "commandbus: nothing to compare with old.json: no load test ran",
        ]
    )
    assert not (suite.pytester.path / "out.json").exists()


def test_an_earlier_report_that_is_not_there_is_a_usage_error_before_anything_runs(suite: Suite) -> None:
    suite.write(LOAD_TEST)
    result = suite.run("--cb-load=1", "--cb-compare=nowhere.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --cb-compare=nowhere.json: cannot be read: No such file*--cb-report=*"])
    assert "collected" not in result.stdout.str()


def test_only_a_test_marked_load_can_use_the_fixture(suite: Suite) -> None:
    suite.write(LOAD_TEST.replace("@pytest.mark.load\n", ""))
    result = suite.run("--cb-load=1")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["test_it.py::test_orders uses cb_load: mark it @pytest.mark.load"])


def test_a_load_test_without_the_fixture_is_not_split(suite: Suite) -> None:
    suite.write("@pytest.mark.load\ndef test_alone():\n    pass\n")
    suite.run("--cb-load=1", "-n2").assert_outcomes(passed=1)
