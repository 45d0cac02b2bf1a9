"""Thresholds, --cb-compare, the HTML report and junit properties of load tests, alone and under xdist."""

import json
import xml.etree.ElementTree as ElementTree

from tests.unit.html_page import Page

from .conftest import Suite

BROKEN = """
@pytest.mark.load(p99_ms=0, min_per_second=0, max_failed_pct=100, max_seconds=0)
@pytest.mark.chaos(ship={"fail_business_rule_pct": 30})
async def test_orders(cb_load):
    result = await cb_load(OrderProcess, workers=1, processes=False)
    print("came to the end of its body")
    assert [(each["name"], each["passed"]) for each in result.thresholds] == [
        ("p99_ms", False), ("min_per_second", True), ("max_failed_pct", True), ("max_seconds", False)]
"""
FAILS = [
    "load run 1 of test_it.py::test_orders broke 2 of 4 thresholds:",
    "  p99_ms: * ms in *, limit: at most 0 ms",
    "  max_seconds: * s, limit: at most 0 s",
]


def test_broken_thresholds_fail_one_item_and_everything_is_reported(suite: Suite) -> None:
    suite.write(BROKEN)
    folder = suite.pytester.path
    options = ("--cb-load=30", "--cb-seed=3")
    alone = suite.run(*options, "--cb-report=load.json")
    alone.assert_outcomes(failed=1)
    alone.stdout.fnmatch_lines([*FAILS, "*came to the end of its body*", "*=* commandbus load *=*", "  thresholds"])

    # the earlier report is read before the new one takes its place
    reports = ("--cb-compare=load.json", "--cb-report=load.json", "--cb-report=out/load.html", "--junit-xml=junit.xml")
    shared = suite.run(*options, "-n2", *reports)
    shared.assert_outcomes(passed=1, failed=1)
    shared.stdout.fnmatch_lines(
        [
            "*_ test_orders[[]shard1of2[]] _*",
            *FAILS,
            "*=* commandbus load *=*",
            "    p99_ms          BROKEN  * ms in *  at most 0 ms",
            "    min_per_second  met *",
            "  against load.json of * UTC",
            "    not the same: shards 1 before, 2 now",
            "    processes */s *",
        ]
    )
    told = json.loads((folder / "load.json").read_text())
    assert [(each["name"], each["limit"], each["passed"]) for each in told["thresholds"]] == [
        ("p99_ms", 0, False),
        ("min_per_second", 0, True),
        ("max_failed_pct", 100, True),
        ("max_seconds", 0, False),
    ]
    assert told["environment"]["chaos"] == {"ShipParcel": {"fail_business_rule_pct": 30.0}}
    assert told["environment"]["mismatches"] == 0

    page = Page((folder / "out" / "load.html").read_text())
    assert page.outside() == []
    assert "2 of 4 thresholds broken: p99_ms, max_seconds" in page.said
    assert page.table("What the marker asks")[1][:2] == ["p99_ms", "broken"]
    assert "shards 1 before, 2 now" in page.said
    assert page.table("Each figure before and now")[1][0] == "processes"

    cases = ElementTree.parse(folder / "junit.xml").findall(".//testcase")  # noqa: S314  our own
    assert len(cases) == 2
    handling = told["steps"]["ReserveStock"]["handling_ms"]
    for case in cases:
        properties = {each.get("name"): each.get("value") for each in case.findall("./properties/property")}
        assert properties["cb_load_processes"] == "30"
        assert properties["cb_load_ReserveStock_handling_p99_ms"] == str(handling["p99"])
        assert str(properties["cb_load_threshold_max_seconds"]).startswith("broken: ")


def test_what_else_is_wrong_comes_before_thresholds(suite: Suite) -> None:
    suite.write(
        """
@pytest.mark.load(max_seconds=0)
def test_orders(cb_load):
    result = cb_load(OrderProcess, processes=False)
    assert result.processes == 0

@pytest.mark.load(max_failed_pct=0, max_seconds=1000, p99_ms=None)
def test_met(cb_load):
    cb_load(OrderProcess, processes=False)
    cb_load(OrderProcess, processes=False)
"""
    )
    result = suite.run("--cb-load=5", "--cb-report=out.html")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["test_it.py::test_met, run 2: 5 processes*"])
    result.stdout.fnmatch_lines(["E  *assert 5 == 0", "    max_seconds  BROKEN  *at most 0 s"])
    page = Page((suite.pytester.path / "out.html").read_text())
    assert "test_orders 1 of 1 threshold broken: max_seconds" in page.said
    assert "test_met all 2 thresholds are met test_met, run 2 all 2 thresholds are met" in page.said
