"""The names of chaos rules, and which rule applies."""

from enum import StrEnum

import pytest

from pytest_commandbus.chaos import ChaosUsageError, CommandBehavior
from pytest_commandbus.chaos_rules import ChaosRules, StepNames


class ReportStep(StrEnum):
    QUERY = "StatementQuery"
    AGGREGATE = "StatementDataAggregation"
    RENDER = "StatementRender"


class OrderStep(StrEnum):
    RESERVE = "reserve_stock"
    REFUND = "give_back_money"


REPORTS = StepNames([ReportStep], [step.value for step in ReportStep])
SHOP = StepNames([ReportStep, OrderStep], ["ReserveStock", "RefundPayment", "SendMail"])
ALWAYS = {"fail_permanent_pct": 100}


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("RENDER", "StatementRender"),
        ("render", "StatementRender"),
        ("StatementRender", "StatementRender"),
        ("statement_render", "StatementRender"),
        ("STATEMENTRENDER", "StatementRender"),
        ("rend", "StatementRender"),
        ("aggregation", "StatementDataAggregation"),
        ("Aggregate", "StatementDataAggregation"),
        ("data", "StatementDataAggregation"),
    ],
)
def test_a_step_is_named_in_full_or_by_a_unique_part(written: str, name: str) -> None:
    assert REPORTS.resolve(written, "here").name == name


def test_a_command_type_spelled_like_a_step_is_the_same_target() -> None:
    target = SHOP.resolve("reserve", "here")
    assert target.names == ("reserve_stock", "ReserveStock")
    assert SHOP.resolve("ReserveStock", "here") == target


def test_a_command_type_of_its_own_is_a_target() -> None:
    assert SHOP.resolve("mail", "here").names == ("SendMail",)


def test_a_full_name_wins_over_a_part_of_another() -> None:
    names = StepNames([], ["Render", "RenderAgain"])
    assert names.resolve("render", "here").name == "Render"


@pytest.mark.parametrize(("written", "options"), [("statement", "StatementDataAggregation, StatementQuery"), ("", "")])
def test_an_ambiguous_name_lists_what_it_could_be(written: str, options: str) -> None:
    with pytest.raises(ChaosUsageError) as caught:
        REPORTS.resolve(written, "chaos")
    assert options in str(caught.value)
    assert "chaos: " in str(caught.value)


def test_an_enum_name_that_two_processes_use_for_different_steps_is_ambiguous() -> None:
    other = StrEnum("other", {"RENDER": "InvoiceRender"})
    with pytest.raises(ChaosUsageError, match="'render' is ambiguous: it is part of InvoiceRender, StatementRender"):
        StepNames([ReportStep, other]).resolve("render", "chaos")


def test_an_unknown_name_lists_what_would_be_valid_and_what_is_near() -> None:
    with pytest.raises(ChaosUsageError) as caught:
        SHOP.resolve("rendre", "@pytest.mark.chaos")
    message = str(caught.value)
    assert message.startswith("@pytest.mark.chaos: no step or command type is called 'rendre'")
    assert "did you mean StatementRender?" in message
    for valid in ("StatementQuery/QUERY", "reserve_stock/RESERVE/ReserveStock", "SendMail"):
        assert valid in message


def test_without_any_declared_name_the_message_says_so() -> None:
    with pytest.raises(ChaosUsageError, match="none is declared"):
        StepNames().resolve("render", "chaos")


def test_a_marker_becomes_rules() -> None:
    rules = ChaosRules.from_marker({"render": ALWAYS, "query": CommandBehavior(timeout_pct=5)}, REPORTS)
    found = rules.find("StatementRender", "StatementRender")
    assert found is not None
    assert (found.behavior.fail_permanent_pct, found.written) == (100, "render")
    assert rules.find("StatementDataAggregation", None) is None
    assert len(rules) == 2
    assert rules.names == {"StatementRender", "StatementQuery"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nonsense": ALWAYS}, "no step or command type is called 'nonsense'"),
        ({"render": {"fail_pct": 1}}, r"@pytest.mark.chaos\(render=…\): unknown field 'fail_pct'"),
        ({"render": {"timeout_pct": 400}}, "timeout_pct=400 is no percentage from 0 to 100"),
        ({"render": ALWAYS, "RENDER": ALWAYS}, "'render' and 'RENDER' are both StatementRender; keep one"),
    ],
)
def test_a_wrong_marker_is_a_usage_error(given: dict[str, object], message: str) -> None:
    with pytest.raises(ChaosUsageError, match=message):
        ChaosRules.from_marker(given, REPORTS)


def test_a_rule_for_the_step_wins_over_one_for_the_command_type() -> None:
    rules = ChaosRules.from_marker({"give_back_money": ALWAYS, "RefundPayment": {"timeout_pct": 1}}, SHOP)
    found = rules.find("give_back_money", "RefundPayment")
    assert found is not None
    assert found.written == "give_back_money"
    other = rules.find("another_step", "RefundPayment")
    assert other is not None
    assert other.written == "RefundPayment"
    assert rules.find(None, None) is None


def test_the_nearest_marker_wins_step_by_step() -> None:
    outer = ChaosRules.from_marker({"render": ALWAYS, "reserve": ALWAYS}, SHOP)
    inner = ChaosRules.from_marker({"reserve_stock": {"timeout_pct": 7}}, SHOP)
    merged = ChaosRules.merge(outer, inner)
    assert {rule.written for rule in merged} == {"render", "reserve_stock"}
    for name in ("reserve_stock", "ReserveStock"):
        found = merged.find(name, None)
        assert found is not None
        assert found.behavior == CommandBehavior(timeout_pct=7)
    assert {rule.written for rule in outer} == {"render", "reserve"}
