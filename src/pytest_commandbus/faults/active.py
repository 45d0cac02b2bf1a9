"""A fault rule while it is in force: whom it hits next, and what it has injected. Pure but for its events."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..chaos import RollKey
from .journal import Injection
from .points import Passage
from .rules import FaultRule, is_hit


class ActiveRule:
    """A rule in force. `number` is its place in the test; `batches` numbers the test's batches by their id."""

    def __init__(self, rule: FaultRule, number: int, seed: int, batches: Mapping[str, int]) -> None:
        self.rule = rule
        self.number = number
        self.injections: list[Injection] = []
        self.ended = asyncio.Event()  # nothing new, and what lasts is healed
        self.under_way: set[asyncio.Task[Any]] = set()
        self._seed = seed
        self._batches = batches
        self._left = rule.times
        self._passed = 0
        self._is_owed = False  # the nth passage hit nobody
        self._hits: Counter[bytes] = Counter()

    @property
    def is_over(self) -> bool:
        """Whether it injects nothing any more."""
        return self.ended.is_set() or self._left == 0

    def hit(self, point: str, passages: Sequence[Passage]) -> list[Passage]:
        """Return the commands that it hits as they pass a point, and count that as one fault."""
        if self.is_over or self.rule.at != point:
            return []
        in_scope = [passage for passage in passages if self.rule.concerns(passage)]
        if not in_scope:
            return []
        self._passed += 1
        if self.rule.nth is not None and self._passed != self.rule.nth and not self._is_owed:
            return []
        self._is_owed = False
        chosen = [passage for passage in in_scope if self._roll(passage)]
        return chosen if chosen and self.take() else []

    def take(self) -> bool:
        """Count one fault more; False when there are no more."""
        if self.is_over:
            return False
        if self._left is not None:
            self._left -= 1
        return True

    def give_back(self) -> None:
        """Take it back: there was nobody to hit. One at a point comes at the next passage."""
        self._is_owed = True
        if self._left is not None:
            self._left += 1

    def _roll(self, passage: Passage) -> bool:
        key = self._key(passage)
        hit = is_hit(self._seed, self.number, self.rule, key, self._hits[key])
        self._hits[key] += hit
        return hit

    def _key(self, passage: Passage) -> bytes:
        ordinal: int | str = passage.process_id or passage.command_id if passage.ordinal is None else passage.ordinal
        batch = 0 if passage.batch_id is None else self._batches.get(passage.batch_id, 0)
        step = passage.step or passage.command_type
        return RollKey(batch, ordinal, step, passage.visit, passage.failures).encode()
