"""The values: which states are final, and how a process's state becomes JSON and comes back."""

from dataclasses import dataclass, field, fields
from datetime import UTC, date, datetime, time
from enum import Enum, StrEnum
from typing import Any, NewType, Optional
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from commandbus import BatchStatus, CommandStatus
from commandbus.payload import dump_payload, load_payload
from commandbus.process import ProcessState, ProcessStatus
from commandbus.process.state import dump_state, load_state
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

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Own) and other.text == self.text

    __hash__ = None  # type: ignore[assignment]

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


class Colour(Enum):
    RED = 1
    BLUE = 2


class Size(StrEnum):
    SMALL = "S"
    LARGE = "L"


class Tag(BaseModel):
    name: str
    at: datetime


Weight = NewType("Weight", int)


@dataclass
class Tree:
    name: str
    children: list["Tree"] = field(default_factory=list)


@dataclass
class Parcel:
    """Something of each kind that JSON alone does not give back."""

    line: Line
    lines: list[Line]
    by_name: dict[str, Line]
    maybe: Line | None
    colour: Colour
    size: Optional[Size]  # noqa: UP045  the older spelling
    key: UUID
    keys: tuple[UUID, ...]
    pair: tuple[str, Line]
    due: datetime
    day: date
    hour: time
    tag: Tag
    own: Own
    tree: Tree
    nested: dict[str, list[Line | None]]
    weight: Weight = Weight(0)
    anything: Any = None
    length: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.length = len(self.lines)


words = st.text('aé\n"', max_size=2)
lines = st.builds(Line, words)
parcels = st.builds(
    Parcel,
    line=lines,
    lines=st.lists(lines, max_size=3),
    by_name=st.dictionaries(words, lines, max_size=2),
    maybe=st.none() | lines,
    colour=st.sampled_from(Colour),
    size=st.none() | st.sampled_from(Size),
    key=st.uuids(),
    keys=st.lists(st.uuids(), max_size=2).map(tuple),
    pair=st.tuples(words, lines),
    due=st.datetimes(timezones=st.just(UTC)),
    day=st.dates(),
    hour=st.times(),
    tag=st.builds(Tag, name=words, at=st.datetimes(timezones=st.just(UTC))),
    own=st.builds(Own, words),
    tree=st.recursive(st.builds(Tree, words), lambda t: st.builds(Tree, st.just("x"), st.lists(t, max_size=2))),
    nested=st.dictionaries(words, st.lists(st.none() | lines, max_size=2), max_size=2),
    weight=st.integers(0, 9).map(Weight),
    anything=objects,
)


@given(parcels)
def test_what_annotations_name_comes_back_through_the_stored_text(parcel: Parcel) -> None:
    text = dump_payload(dump_state(parcel), what="state")
    again = load_state(Parcel, load_payload(text))
    assert again == parcel
    assert (type(again.colour), type(again.key), type(again.due)) == (Colour, UUID, datetime)
    assert dump_payload(dump_state(again), what="state") == text
    assert load_state(Parcel, {f.name: getattr(parcel, f.name) for f in fields(parcel)}) == parcel  # as given to start


def test_a_value_that_its_annotation_does_not_allow_is_refused() -> None:
    with pytest.raises(ValueError, match="not a valid Size"):
        load_state(Shirt, {"size": "XXL"})


@dataclass
class Shirt:
    size: Size


@dataclass
class Guess:
    what: Line | Shirt


class Point(Enum):
    ORIGIN = (0, 0)


@dataclass
class Placed:
    at: Point


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Guess, r"Guess\.what would not come back as it was: of .*Line \| .*Shirt JSON does not tell which"),
        (Placed, r"Placed\.at would not come back as it was: Point has a member whose value is neither text"),
    ],
)
def test_what_could_not_come_back_is_refused_with_a_way_out(kind: type[Any], problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        load_state(kind, {})


def test_annotations_that_cannot_be_followed_are_refused_with_a_way_out() -> None:
    @dataclass
    class Lost:
        what: "Nowhere"  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(TypeError, match=r"annotations of Lost cannot be followed .*'Nowhere'.*in its module"):
        load_state(Lost, {})


def test_a_field_that_is_gone_from_the_class_is_left_out() -> None:
    assert load_state(Order, {"number": 4, "dropped_in_version_2": True}) == Order(4)


def test_a_state_of_another_kind_is_refused_with_a_way_out() -> None:
    with pytest.raises(TypeError, match=r"a process state of type complex has no to_dict\(\); give it to_dict"):
        dump_state(1j)
