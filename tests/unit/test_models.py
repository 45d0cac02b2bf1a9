"""The values: which states are final, and how a process's state becomes JSON and comes back."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from commandbus import BatchStatus, CommandStatus
from commandbus.payload import dump_payload, load_payload
from commandbus.process import ProcessState, ProcessStatus
from commandbus.process.models import dump_state, load_state
from tests.json_values import objects


@dataclass
class Order:
    number: int = 0
    lines: list[str] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)


class OrderModel(BaseModel):
    number: int = 0
    lines: list[str] = []


@dataclass
class Line:
    name: str


@dataclass
class Basket:
    lines: list[Line]
    first: Line


class Own:
    """A state that writes itself."""

    def __init__(self, text: str) -> None:
        self.text = text

    def to_dict(self) -> dict[str, Any]:
        return {"text": self.text}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Own":
        return cls(data["text"])


def test_which_states_are_final() -> None:
    assert {s for s in CommandStatus if s.is_terminal} == {"COMPLETED", "FAILED", "CANCELED"}
    assert {s for s in ProcessStatus if s.is_terminal} == {"COMPLETED", "COMPENSATED", "FAILED", "CANCELED"}
    assert {s for s in BatchStatus if s.is_final} == {"COMPLETED", "COMPLETED_WITH_FAILURES"}


@given(
    st.builds(Order, st.integers(), st.lists(st.text(max_size=5)), st.dictionaries(st.text(max_size=3), st.integers()))
)
def test_a_dataclass_comes_back_equal(order: Order) -> None:
    assert load_state(Order, dump_state(order)) == order


@given(st.builds(OrderModel, number=st.integers(), lines=st.lists(st.text(max_size=5))))
def test_a_pydantic_model_comes_back_equal(order: OrderModel) -> None:
    assert load_state(OrderModel, dump_state(order)) == order


@given(objects)
def test_a_dict_comes_back_equal_through_the_stored_text(state: dict[str, Any]) -> None:
    assert load_state(dict, load_payload(dump_payload(dump_state(state)))) == state


def test_a_state_that_writes_itself_is_asked() -> None:
    assert isinstance(Own("x"), ProcessState)
    assert dump_state(Own("x")) == {"text": "x"}
    assert load_state(Own, {"text": "y"}).text == "y"


def test_nested_dataclasses_are_written_whole() -> None:
    assert dump_state(Basket([Line("a"), Line("b")], Line("c"))) == {
        "lines": [{"name": "a"}, {"name": "b"}],
        "first": {"name": "c"},
    }


def test_a_field_that_is_gone_from_the_class_is_left_out() -> None:
    assert load_state(Order, {"number": 4, "dropped_in_version_2": True}) == Order(4)


def test_a_state_of_another_kind_is_refused_with_a_way_out() -> None:
    with pytest.raises(TypeError, match=r"a process state of type complex has no to_dict\(\); give it to_dict"):
        dump_state(1j)
