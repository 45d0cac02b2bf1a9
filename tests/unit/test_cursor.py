"""Cursors: they come back as they were, and whatever no page gave is refused with what to do."""

import base64
import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from commandbus import CommandBusError, InvalidCursorError, Page
from commandbus._core.cursor import check_limit, dump_cursor, load_cursor, make_page

KINDS = (str, int, datetime, type(uuid4()))
VALUES = st.tuples(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    st.integers(-(2**63), 2**63 - 1),
    st.datetimes(timezones=st.just(UTC)),
    st.uuids(),
)


@given(VALUES)
def test_a_cursor_comes_back_as_it_was(values: tuple[Any, ...]) -> None:
    text = dump_cursor(values)
    assert set(text) <= set(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    )  # needs no quoting in a URL
    assert load_cursor(text, KINDS) == values


def test_no_cursor_is_none() -> None:
    assert load_cursor(None, (int,)) is None


def written(value: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(value)).decode()


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("", (int,)),
        ("nonsense", (int,)),
        ("ünïcode", (int,)),
        ("a" * 10_000, (int,)),
        (base64.urlsafe_b64encode(json.dumps([float("nan")]).encode()).decode(), (int,)),
        (written({"0": 1}), (int,)),
        (written(7), (int,)),
        (written([]), (int,)),
        (written([1, 2]), (int,)),
        (written([True]), (int,)),
        (written([2**63]), (int,)),
        (written(["1"]), (int,)),
        (written([1]), (str,)),
        (written(["a\0"]), (str,)),
        (written(["2026-05-01T00:00:00"]), (datetime,)),
        (written(["infinity"]), (datetime,)),
        (written([5]), (datetime,)),
        (written(["no id"]), (type(uuid4()),)),
        (written([None]), (type(uuid4()),)),
        (17, (int,)),
    ],
)
def test_what_no_page_gave_is_refused(text: Any, kinds: tuple[type[Any], ...]) -> None:
    with pytest.raises(InvalidCursorError, match="pass what a page of the same listing gave as next_cursor") as caught:
        load_cursor(text, kinds)
    assert isinstance(caught.value, CommandBusError)
    assert len(str(caught.value)) < 200


def test_one_more_than_the_limit_says_that_there_is_a_next_page() -> None:
    assert make_page([1, 2, 3], 3, lambda n: [n]) == Page([1, 2, 3], None)
    assert make_page([1, 2, 3, 4], 3, lambda n: [n]) == Page([1, 2, 3], dump_cursor([3]))
    assert make_page([], 3, lambda n: [n]) == Page([], None)


@pytest.mark.parametrize("limit", [0, -1, 1_001, True, 2.0, "5", None])
def test_a_limit_out_of_range_is_refused(limit: Any) -> None:
    with pytest.raises(ValueError, match="limit must be 1 to 1,000"):
        check_limit(limit)


def test_a_limit_within_range_is_taken() -> None:
    assert [check_limit(limit) for limit in (1, 1_000)] == [1, 1_000]
