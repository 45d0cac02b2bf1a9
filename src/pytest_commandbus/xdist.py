"""Load tests under pytest-xdist: shards, and the results that workers publish and the controller merges. Pure.

A load test becomes one item a shard; the items are the same on all workers. What a worker publishes are plain dicts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import pytest

SHARD_FIXTURE = "_cb_shard"
PUBLISHED = "cb_load_results"
_SHARD_ID = re.compile(r"(?P<open>\[|-)shard(?P<index>\d+)of(?P<count>\d+)\]$")


def shard_count(config: pytest.Config) -> int:
    """How many shards a load test has in this run: the number of xdist workers, or 1."""
    workerinput: Mapping[str, Any] = getattr(config, "workerinput", {})
    return int(workerinput.get("workercount", 1))


def split(total: int, shards: int) -> list[range]:
    """The ordinals 0 to total - 1 as contiguous ranges, one a shard, whose lengths differ by one at most."""
    small, larger = divmod(total, shards)
    starts = [shard * small + min(shard, larger) for shard in range(shards + 1)]
    return [range(start, end) for start, end in pairwise(starts)]


def shard_id(shard: int, shards: int) -> str:
    """The shard as a part of the item's name, counted from 1."""
    return f"shard{shard + 1}of{shards}"


def parametrize_shards(metafunc: pytest.Metafunc) -> None:
    """Makes one item a shard of each load test, on xdist workers."""
    shards = shard_count(metafunc.config)
    is_load_test = metafunc.definition.get_closest_marker("load") is not None
    if is_load_test and hasattr(metafunc.config, "workerinput") and SHARD_FIXTURE in metafunc.fixturenames:
        ids = [shard_id(shard, shards) for shard in range(shards)]
        metafunc.parametrize(SHARD_FIXTURE, range(shards), ids=ids, indirect=True)


def without_shard(nodeid: str) -> str:
    """The name that all shards of a load test share: 'a.py::test[x-shard1of2]' -> 'a.py::test[x]'."""
    return _SHARD_ID.sub(lambda found: "" if found["open"] == "[" else "]", nodeid)


def is_shard(nodeid: str) -> bool:
    """Whether this is an item of a load test that was split."""
    return _SHARD_ID.search(nodeid) is not None


def judges(nodeid: str, nodeids: Iterable[str]) -> bool:
    """Whether this item, the first of those shards that run, fails for what its whole load test is to blame for.

    nodeids: of the items of the run, which are the same in the same order on all xdist workers.
    """
    test = without_shard(nodeid)
    return nodeid == next(other for other in nodeids if without_shard(other) == test)


def merge(published: Iterable[Iterable[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Each load run once, in the order in which workers told of it: all shards of a run publish its merged result."""
    merged: dict[tuple[str, int], dict[str, Any]] = {}
    for results in published:
        for result in results:
            environment = result["environment"]
            merged.setdefault((environment["test"], environment["run"]), dict(result))
    return list(merged.values())
