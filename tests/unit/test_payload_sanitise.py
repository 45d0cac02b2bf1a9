"""Write-back: whatever a handler returns or raises can be stored, and tells truthfully what was replaced."""

import datetime
import json
import math
import uuid
from decimal import Decimal
from enum import Enum
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from commandbus.payload import dump_payload, load_payload, sanitise, sanitise_text
from tests.json_values import any_texts, anything, objects


def has_long_integer(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(has_long_integer, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int) and not -(2**63) <= value < 2**64


@given(anything)
def test_anything_becomes_storable(value: Any) -> None:
    safe = sanitise(value)
    assert orjson.dumps(safe.value).decode() == safe.json
    assert json.loads(safe.json) == safe.value or isinstance(safe.value, tuple)
    assert load_payload(dump_payload({"result": safe.value})) == {"result": json.loads(safe.json)}


@given(objects)
@example({"large": 2**63, "nested": [{"larger": 2**64}]})
@example({"large": 2**63})
def test_what_is_valid_is_not_changed(data: dict[str, Any]) -> None:
    safe = sanitise(data)
    assert safe.changed == has_long_integer(data)
    if not safe.changed:
        assert safe.value == data


@given(anything)
def test_sanitising_twice_changes_nothing_more(value: Any) -> None:
    once = sanitise(value)
    twice = sanitise(once.value)
    assert (twice.value, twice.changed) == (once.value, False)


class Colour(Enum):
    RED = "red"


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("no text for you")

    __repr__ = __str__


class HostileDict(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("no items for you")


@pytest.mark.parametrize(
    ("value", "safe"),
    [
        (math.nan, "<NaN>"),
        (-math.inf, "<-Infinity>"),
        ("a\0b", "a\\x00b"),
        ("a\ud800b", "a\\ud800b"),
        (b"abc", "<3 bytes>"),
        ({7}, [7]),
        (datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.UTC), "2026-05-01T12:00:00+00:00"),
        (datetime.date(2026, 5, 1), "2026-05-01"),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (Decimal("1.50"), "1.50"),
        (2**64, "18446744073709551616"),
        (Colour.RED, "red"),
        (Hostile(), "<Hostile>"),
        ({1: "a", "1": "b", None: "c", False: "d"}, {"1": "a", "1 (1)": "b", "null": "c", "false": "d"}),
        ({"\0": 1}, {"\\x00": 1}),
        ({Hostile(): 1}, {"<Hostile>": 1}),
    ],
)
def test_each_replacement_says_what_was_there(value: Any, safe: Any) -> None:
    result = sanitise({"value": value})
    assert result.value == {"value": safe}
    assert result.changed


def test_an_integer_that_python_cannot_spell_is_replaced() -> None:
    assert sanitise({"n": 10**5000}).value == {"n": "<integer of more than 4,000 digits>"}


def test_nothing_is_nothing() -> None:
    assert sanitise(None) == (None, "null", False)


def test_too_deep_and_endless_values_are_cut_where_the_limit_is() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    safe = sanitise({"cycle": cycle})
    assert safe.changed
    assert safe.json.count("[") == 99
    assert "<nesting beyond 100 levels>" in safe.json


def test_too_large_values_are_left_out_with_the_reason() -> None:
    for value in ({"a": "x" * 100}, {"a": ["x"] * 100}, {"a": list(range(100))}, {"a": ["x" * 60] * 10**6}):
        assert sanitise(value, limit=80).value["left_out"].startswith("result of ")
        assert sanitise(value, limit=80).changed
    assert sanitise({"a": [0] * 100}, limit=80).value == {"left_out": "result of more than 80 bytes, the limit"}
    assert not sanitise({"a": "x" * 100}, limit=108).changed
    assert sanitise({"a": "x" * 100}, limit=107).value == {"left_out": "result of 108 bytes, over the limit of 107"}


def test_a_value_that_raises_while_it_is_read_is_left_out() -> None:
    assert sanitise(HostileDict(a=b"x")).value == {"left_out": "result could not be read: RuntimeError"}


@given(any_texts, st.integers(0, 60))
def test_any_text_becomes_storable_and_no_longer_than_the_limit(text: str, limit: int) -> None:
    safe = sanitise_text(text, limit=limit)
    assert len(safe) <= limit
    assert "\0" not in safe
    safe.encode()
    if len(text) <= limit and text.isascii() and "\0" not in text:
        assert safe == text


def test_a_cut_text_tells_its_whole_length() -> None:
    assert sanitise_text("x" * 200, limit=50) == "x" * 18 + "... (cut, 200 characters in all)"
    assert len(sanitise_text("\0" * 50, limit=100)) == 100


def test_exceptions_have_their_text_or_a_description_of_it() -> None:
    class NoTextError(Exception):
        def __str__(self) -> str:
            raise KeyError("x")

    assert sanitise_text(ValueError("bad\0")) == "bad\\x00"
    assert sanitise_text(NoTextError()) == "<NoTextError without a text: KeyError>"
