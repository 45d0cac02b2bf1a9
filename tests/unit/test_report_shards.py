"""How a load test is split over shards, and how what they publish is merged."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_commandbus.xdist import is_shard, judges, merge, shard_id, split, without_shard


@given(st.integers(1, 100_000), st.integers(1, 64))
def test_a_split_is_exact_contiguous_and_even(total: int, shards: int) -> None:
    ranges = split(total, shards)
    assert len(ranges) == shards
    assert [part.start for part in ranges] == [0, *(part.stop for part in ranges[:-1])]
    assert ranges[-1].stop == total
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1


@pytest.mark.parametrize(
    ("nodeid", "whole"),
    [
        ("a.py::test[shard1of2]", "a.py::test"),
        ("a.py::test[csv-shard12of16]", "a.py::test[csv]"),
        ("a.py::T::test[csv]", "a.py::T::test[csv]"),
    ],
)
def test_shards_share_the_name_of_their_test(nodeid: str, whole: str) -> None:
    assert without_shard(nodeid) == whole
    assert is_shard(nodeid) == (nodeid != whole)


def test_the_shard_id_is_found_again() -> None:
    assert without_shard(f"a.py::test[{shard_id(3, 4)}]") == "a.py::test"


def result(test: str, run: int, **figures: Any) -> dict[str, Any]:
    return {"environment": {"test": test, "run": run}, **figures}


def test_a_run_that_all_its_shards_published_is_there_once() -> None:
    first, second, other = result("a", 1, seed=1), result("a", 2, seed=1), result("b", 1, seed=1)
    assert merge([[first, second], [first, second, other], []]) == [first, second, other]


def test_one_item_answers_for_the_whole_load_test_whichever_shards_run() -> None:
    items = ["a.py::other", "a.py::test[csv-shard2of3]", "a.py::test[csv-shard3of3]", "a.py::test[pdf-shard1of3]"]
    assert [nodeid for nodeid in items if judges(nodeid, items)] == [items[0], items[1], items[3]]
