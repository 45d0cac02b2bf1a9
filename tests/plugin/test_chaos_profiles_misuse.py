"""Wrong, unknown and unfitting chaos profiles: where they are told, and how."""

import pytest

from .conftest import Suite
from .profiles_kit import EMPTY_TEST, ROUGH, with_profiles


@pytest.mark.parametrize("where", ["option", "marker"])
@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        (ROUGH, "*no chaos profile is called 'flaky'; known are rough. Declare it as a table*chaos.flaky] in *.toml*"),
        ("[tool.commandbus.chaos.flaki]\npay = {}", "*did you mean 'flaki'? known are flaki.*"),
        ("", "*'flaky'; none is declared. Declare it as a table [[]tool.commandbus.chaos.flaky] in *.toml*"),
        (
            "[tool.commandbus.chaos.flaky]\npay = { fail_permanent_pct = 101 }",
            "*pyproject.toml, [[]tool.commandbus.chaos.flaky], pay: fail_permanent_pct=101 is no percentage from 0 *",
        ),
        (
            "[tool.commandbus.chaos.flaky.pay]\nfail_pct = 1",
            "*pyproject.toml, [[]tool.commandbus.chaos.flaky], pay: unknown field 'fail_pct'; the fields are fail_per*",
        ),
        ("[tool.commandbus.chaos.flaky]", "*chaos.flaky]: a chaos profile has a behavior*it names no step: write *"),
        ("[tool.commandbus.chaos]\nflaky = 30", "*chaos.flaky]: a chaos profile has a behavior *it is 30: write *"),
        ("[tool.commandbus.chaos.flaky]\npay = 30", "*chaos.flaky], pay: a behavior is a dict of *; 30 is none"),
        ("[tool.commandbus]\nchaos = 'flaky'", "*pyproject.toml: tool.commandbus.chaos is 'flaky', not a table: *"),
    ],
)
def test_a_wrong_profile_is_a_usage_error_at_collection(suite: Suite, where: str, profiles: str, message: str):
    with_profiles(suite, profiles)
    suite.write(('@pytest.mark.chaos("flaky")\n' if where == "marker" else "") + EMPTY_TEST)
    result = suite.run(*(["--cb-chaos=flaky"] if where == "option" else []))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    asked = "--cb-chaos: " if where == "option" else "test_it.py::test_it: @pytest.mark.chaos: "
    result.stderr.fnmatch_lines([f"ERROR: {asked}{message}" if "'flaky';" in message else message])


def test_an_unknown_profile_is_told_by_xdist_workers_too(suite: Suite):
    with_profiles(suite, ROUGH)
    suite.write(EMPTY_TEST + "\ndef test_without_the_bus():\n    pass\n")
    result = suite.run("--cb-chaos=rouhg", "-n2")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*--cb-chaos: no chaos profile is called 'rouhg'; did you mean 'rough'? known are *"])


def test_xdist_workers_tell_a_wrong_marker_at_its_test(suite: Suite):
    with_profiles(suite, "[tool.commandbus.chaos.flaky]\npay = { timeout_pct = 101 }\n")
    suite.write(
        """
        @pytest.mark.chaos("flaky")
        async def test_profile(cb_process_batch):
            pass

        @pytest.mark.cb_database(scope="world")
        async def test_scope(cb_bus):
            pass

        async def test_right(cb_bus):
            pass
        """
    )
    result = suite.run("-n2")
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*chaos.flaky], pay: timeout_pct=101 is no percentage from 0 to 100"])
    result.stdout.fnmatch_lines(["*cb_database takes scope=, one of function, class, *"])


def test_a_wrong_profile_over_the_run_stops_an_xdist_run_at_once(suite: Suite):
    with_profiles(suite, "[tool.commandbus.chaos.flaky]\npay = { timeout_pct = 101 }\n")
    suite.write(EMPTY_TEST)
    result = suite.run("--cb-chaos=flaky", "-n2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*chaos.flaky], pay: timeout_pct=101 is no percentage from 0 to 100"])


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        (
            "bill = { timeout_pct = 1 }",
            "*pyproject.toml, [[]*chaos.flaky]: no step or command type is called 'bill'; *",
        ),
        (
            "stock = { timeout_pct = 1 }",
            "*chaos.flaky]: 'stock' is ambiguous: it is part of ReserveStock, ReturnStock*",
        ),
        (
            "pay = {}\nTakePayment = {}",
            "*chaos.flaky]: 'pay' and 'TakePayment' are both TakePayment; keep one of them*",
        ),
    ],
)
@pytest.mark.parametrize("option", [True, False], ids=["option", "marker"])
def test_a_profile_that_does_not_fit_the_app_says_what_would(suite: Suite, profile: str, message: str, option: bool):
    with_profiles(suite, "[tool.commandbus.chaos.flaky]\n" + profile)
    suite.write(("" if option else '@pytest.mark.chaos("flaky")\n') + EMPTY_TEST)
    result = suite.run(*(["--cb-chaos=flaky"] if option else []))
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[]", "*the fixture cb_chaos_profiles returns list: let it return a dict of profiles, such as *"),
        ('{"x": {}}', "*the fixture cb_chaos_profiles, profile 'x': *it names no step: write *"),
        (
            '{"flaky": {"pay": {"timeout_pct": 101}}}',
            "*fixture cb_chaos_profiles, profile 'flaky', pay: timeout_pct=101*",
        ),
        ('{"flacky": {"pay": {}}}', "*@pytest.mark.chaos: no chaos profile is called 'flaky'; did you mean 'flacky'?*"),
    ],
)
def test_a_wrong_fixture_is_told(suite: Suite, returned: str, message: str):
    suite.write(
        f"""
        @pytest.fixture
        def cb_chaos_profiles():
            return {returned}

        @pytest.mark.chaos("flaky")
        async def test_it(cb_process_batch):
            pass
        """
    )
    result = suite.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([message])


def test_a_fixture_brings_the_profile_of_the_run(suite: Suite):
    suite.write(
        """
        @pytest.fixture(scope="session")
        def cb_chaos_profiles():
            return {"lost": {"ship": {"fail_permanent_pct": 100}}}

        async def test_it(cb_process_batch):
            batch = await cb_process_batch(OrderProcess, count=3)
            assert (await batch.wait()).in_troubleshooting_count == 3
        """
    )
    suite.run("--cb-chaos=lost").assert_outcomes(passed=1)
    result = suite.run("--cb-chaos=lots")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*--cb-chaos: no chaos profile is called 'lots'; did you mean 'lost'?*"])


def test_a_file_that_cannot_be_read_is_told_only_where_profiles_are_used(suite: Suite):
    suite.pytester.makefile(".ini", pytest="[pytest]\npythonpath = .\n")
    (suite.pytester.path / "pyproject.toml").write_text("[tool.commandbus.chaos.x\n")
    suite.write(EMPTY_TEST)
    suite.run("-c", "pytest.ini").assert_outcomes(passed=1)
    result = suite.run("-c", "pytest.ini", "--cb-chaos=x")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *pyproject.toml: the chaos profiles in it cannot be read: * line 1*"])
