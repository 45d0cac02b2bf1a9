"""Hypothesis strategies: what JSON can hold, and what a program may try to store all the same."""

import datetime
import decimal
import math
import uuid

from hypothesis import strategies as st

from commandbus.payload import MAX_DIGITS

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
any_texts = st.text(st.characters(exclude_categories=[]), max_size=20)  # with U+0000 and lone surrogates
long_integers = st.builds(
    lambda digits, sign: sign * 10**digits - sign, st.integers(0, MAX_DIGITS), st.sampled_from([1, -1])
)
numbers = st.integers() | long_integers | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | texts
objects = st.dictionaries(
    texts,
    st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
    ),
    max_size=6,
)

# each one alone makes a payload invalid
poisons = st.one_of(
    st.sampled_from(
        [math.nan, math.inf, -math.inf, "\0", "a\0b", "\ud800", "x\udfff", b"", b"x", bytearray(b"y"), {1}, frozenset()]
    ),
    st.sampled_from([10**MAX_DIGITS, -(10**MAX_DIGITS), object(), object, len, 1j, decimal.Decimal("1.5")]),
    st.sampled_from(
        [uuid.UUID(int=7), datetime.datetime(2026, 5, 1, tzinfo=datetime.UTC), datetime.date(2026, 5, 1), range(3)]
    ),
    st.sampled_from([{1: 2}, {None: 1}, {b"k": 1}, {("a", 1): 1}, {"\0": 1}, {"\ud800": 1}, {1.5: 1}, {True: 1}]),
)
anything = st.recursive(
    scalars | poisons | any_texts,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(any_texts | st.integers() | st.none() | st.booleans(), inner, max_size=4),
    ),
    max_leaves=12,
)
