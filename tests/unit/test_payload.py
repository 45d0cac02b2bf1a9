"""What may be sent: accepted payloads are read back equal, everything else is refused with its path."""

import enum
import json
import math
from collections import OrderedDict, defaultdict, namedtuple
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from commandbus.errors import CommandBusError, InvalidNameError, InvalidPayloadError
from commandbus.payload import MAX_DEPTH, check_name, dump_payload, load_payload
from tests.json_values import objects, poisons

TOO_LONG_TO_PRINT = 10**5000  # Python refuses to make a string of it


def ascii_id(value: Any) -> str:
    return "integer" if value is TOO_LONG_TO_PRINT else ascii(value)[:20]


def nested(levels: int, inner: Any = None) -> Any:
    value = inner
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


@given(objects)
@example({"n": 2**63, "m": 2**64, "l": -(2**63) - 1})
@example({"null": None, "text": "null", "escape": "\\u0000"})
def test_what_is_accepted_is_read_back_equal(data: dict[str, Any]) -> None:
    text = dump_payload(data)
    assert json.loads(text) == data
    assert load_payload(text) == data
    assert load_payload(text.encode()) == data


@given(objects, poisons, st.lists(st.sampled_from(["list", "dict", "tuple"]), max_size=5), st.integers(0, 3))
def test_one_bad_value_anywhere_is_refused_and_named(
    data: dict[str, Any], bad: Any, way: list[str], index: int
) -> None:
    path, value = "", bad
    for kind in way:
        if kind == "dict":
            path, value = ".k" + path, {"a": 1, "k": value}
        else:
            path, value = f"[{index}]" + path, [None] * index + [value]
            value = tuple(value) if kind == "tuple" else value
    with pytest.raises(InvalidPayloadError) as raised:
        dump_payload({**data, "bad": value})
    assert raised.value.path == "data.bad" + path
    assert str(raised.value).startswith(raised.value.path + ": ")
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"items": [0, 1, 2, {"price": math.nan}]}, "data.items[3].price: NaN is not JSON; send null or a string"),
        ({"a": -math.inf}, "data.a: -Infinity is not JSON; send null or a string"),
        ({"odd key": {"b": b"x"}}, "data['odd key'].b: bytes is not JSON; send base64 text"),
        ({"a": {1: 2}}, "data.a: key 1 is of type int; keys of a JSON object are strings"),
        ([1], "data: a JSON object (a dict) is needed, not list"),
        (None, "data: a JSON object (a dict) is needed, not NoneType"),
    ],
)
def test_the_error_names_the_place_and_the_remedy(data: Any, message: str) -> None:
    with pytest.raises(InvalidPayloadError) as raised:
        dump_payload(data)
    assert str(raised.value) == message
    assert isinstance(raised.value, CommandBusError)
    assert isinstance(raised.value, ValueError)


def test_what_names_the_start_of_the_path() -> None:
    with pytest.raises(InvalidPayloadError, match=r"^state\.total: NaN"):
        dump_payload({"total": math.nan}, what="state")


def test_nesting_is_accepted_up_to_the_limit() -> None:
    deepest = nested(MAX_DEPTH - 1, "x")
    assert load_payload(dump_payload({"d": deepest})) == {"d": deepest}
    with pytest.raises(InvalidPayloadError, match="nesting beyond 100 levels"):
        dump_payload({"d": nested(MAX_DEPTH, "x")})


@pytest.mark.parametrize("levels", [1_000, 100_000])
def test_far_deeper_nesting_and_cycles_are_refused_too(levels: int) -> None:
    cycle: dict[str, Any] = {}
    cycle["again"] = cycle
    for data in ({"d": nested(levels)}, cycle):
        with pytest.raises(InvalidPayloadError, match=r"levels.*nesting beyond 100 levels") as raised:
            dump_payload(data)
        assert len(str(raised.value)) < 400


def test_the_size_is_counted_in_bytes() -> None:
    assert dump_payload({"k": "é" * 5}, limit=18) == '{"k":"' + "é" * 5 + '"}'
    with pytest.raises(InvalidPayloadError, match=r"18 bytes of JSON, over the limit of 17"):
        dump_payload({"k": "é" * 5}, limit=17)


def test_shared_parts_are_refused_before_they_blow_up() -> None:
    wide: Any = ["x" * 1000] * 1000
    for _ in range(6):
        wide = [wide] * 1000  # 10^24 bytes, were it written
    with pytest.raises(InvalidPayloadError, match="over the limit of 1,048,576"):
        dump_payload({"wide": wide})
    with pytest.raises(InvalidPayloadError, match="at least"):  # told without writing them
        dump_payload({"long": ["x" * 10_000] * 10_000})


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Plain(enum.Enum):
    ONE = 1


class Amount(float):
    pass


def test_subclasses_of_json_types_are_written_as_those() -> None:
    point = namedtuple("point", "x y")
    data = {
        "colour": Colour.RED,
        "level": Level.HIGH,
        "amount": Amount(1.5),
        "point": point(1, 2),
        "default": defaultdict(list, a=[1]),
        "ordered": OrderedDict(b=2),
        Colour.RED: 1,
    }
    assert load_payload(dump_payload(data)) == {
        "colour": "red",
        "level": 3,
        "amount": 1.5,
        "point": [1, 2],
        "default": {"a": [1]},
        "ordered": {"b": 2},
        "red": 1,
    }
    with pytest.raises(InvalidPayloadError, match=r"data\.plain: Plain is not JSON"):
        dump_payload({"plain": Plain.ONE})


def test_orjson_alone_would_have_changed_these_silently() -> None:
    """The two traps that the walk and load_payload are there for; if orjson mends them, they can go."""
    assert orjson.dumps({"a": math.nan}) == b'{"a":null}'
    assert orjson.loads("18446744073709551617") != 18446744073709551617


@pytest.mark.parametrize("name", ["orders", "A-1_b.c", "x" * 63, "0"])
def test_a_valid_name_is_given_back(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 64,
        "x; DROP TABLE t; --",
        "a b",
        "a\n",
        "\u043erders",
        "\uff41",
        "a\0",
        "\ud800",
        "a/b",
        None,
        7,
        b"orders",
        TOO_LONG_TO_PRINT,
    ],
    ids=ascii_id,
)
def test_another_name_is_refused_with_what_would_be_valid(name: Any) -> None:
    with pytest.raises(
        InvalidNameError, match=r"^command type .* 1 to 63 of the characters A-Z a-z 0-9 _ \. -$"
    ) as raised:
        check_name(name, what="command type")
    assert str(raised.value).isprintable()
