"""Fault rules: what is injected, when and for which commands, as it is written. Pure: no driver, no clock."""

import difflib
import hashlib
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..shown import shown
from .points import POINTS, Passage

MARKER = "@pytest.mark.faults"
HIGHEST_RATE = 100.0
_WHEN = ("at", "nth", "pct", "times", "rate")
_SCOPE = ("domain", "step", "where")
_NETWORK = ("latency_ms", "jitter_ms", "timeout_ms", "reset_peer", "down", "stream")
_ANY_TIME = (*_WHEN, *_SCOPE)
STREAMS = ("upstream", "downstream", "both")

KINDS: Mapping[str, tuple[str, ...]] = {
    "kill": _ANY_TIME,
    "freeze": (*_ANY_TIME, "seconds"),
    "terminate": _ANY_TIME,
    "crash_postgres": (*_ANY_TIME, "seconds"),
    "restart_postgres": _ANY_TIME,
    "network": (*_ANY_TIME, "seconds", *_NETWORK),
    "old_snapshot": (),
    "full_disk": (),
}
"""The kinds of faults, each with the fields that it takes."""

LASTING = frozenset({"network", "old_snapshot", "full_disk"})  # without at= and rate= they last the whole block or test
OF_SERVER = frozenset({"crash_postgres", "restart_postgres", "full_disk"})


class FaultUsageError(ValueError):
    """A fault that says nothing valid; the message tells what would be."""


@dataclass(frozen=True, slots=True)
class Toxics:
    """What the proxy does to connections, in Toxiproxy's words; see the reference."""

    latency_ms: float = 0.0
    jitter_ms: float = 0.0
    timeout_ms: float | None = None
    reset_peer: bool = False
    down: bool = False
    stream: str = "both"


@dataclass(frozen=True, slots=True)
class FaultRule:
    """One fault, checked. `where` is its place, for messages; the fields are those of the marker.

    at: a point, or None. nth: the one passage that is hit. pct: percentage of the commands that pass. times: at most so
    many, None for no limit. rate: faults a second. steps: the names that commands in scope carry, None for all.
    seconds: how long it lasts, None for what its kind says. lasts: for the whole block or test.
    """

    kind: str
    at: str | None = None
    nth: int | None = None
    pct: float | None = None
    times: int | None = None
    rate: float | None = None
    domain: str | None = None
    step: str | None = None
    steps: frozenset[str] | None = None
    where: Callable[[Passage], object] | None = field(default=None, compare=False)
    seconds: float | None = None
    toxics: Toxics = Toxics()
    written: str = ""

    @property
    def lasts(self) -> bool:
        """Whether it is there from its beginning to its end, rather than at moments."""
        return self.kind in LASTING and self.at is None and self.rate is None

    @property
    def is_once(self) -> bool:
        """Whether it says no time at all: it is then injected by hand, once."""
        return self.at is None and self.rate is None and not self.lasts

    def concerns(self, passage: Passage) -> bool:
        """Tell whether a command is in scope."""
        return (
            (self.domain is None or self.domain == passage.domain)
            and (self.steps is None or passage.step in self.steps or passage.command_type in self.steps)
            and (self.where is None or bool(self.where(passage)))
        )


def rule_of(kind: str, given: Mapping[str, Any], where: str) -> FaultRule:
    """Check one fault. Raises FaultUsageError, led by `where`."""
    known = KINDS.get(kind)
    if known is None:
        raise FaultUsageError(f"{where}: no fault is called {kind!r}; {_valid(kind, KINDS)}")
    written = f"{kind}({', '.join(f'{name}={shown(value)}' for name, value in given.items())})"
    where = f"{where}({kind}=…)" if where == MARKER or where.endswith(MARKER) else where
    for name in given:
        if name not in known:
            takes = _valid(name, known) if known else "it takes none: it lasts as long as its block, or the test"
            raise FaultUsageError(f"{where}: unknown field {shown(name)}; {takes}")
    rule = FaultRule(
        kind,
        at=_point(given, where),
        nth=_whole(given, "nth", where),
        pct=_number(given, "pct", where, 0, 100),
        times=_whole(given, "times", where),
        rate=_number(given, "rate", where, 0, HIGHEST_RATE),
        domain=_text(given, "domain", where),
        step=_text(given, "step", where),
        where=_predicate(given, where),
        seconds=_number(given, "seconds", where, 0, 3600),
        toxics=_toxics(kind, given, where),
        written=written,
    )
    _check_together(rule, where)
    if rule.at is not None and rule.nth is None and rule.pct is None and rule.times is None:
        return _with(rule, times=1)
    return _with(rule, times=1) if rule.nth is not None else rule


def rules_of_marker(kinds: Mapping[str, Any], where: str = MARKER) -> list[FaultRule]:
    """Check what one marker says: kind={field: value}, or a list of such. Raises FaultUsageError."""
    rules = []
    for kind, value in kinds.items():
        for given in value if isinstance(value, list | tuple) else [value]:
            if given is True and kind in ("old_snapshot", "full_disk"):
                given = {}  # noqa: PLW2901  they have nothing more to say
            if not isinstance(given, Mapping) and kind in KINDS:
                example = "True" if not KINDS[kind] else _example(kind)
                raise FaultUsageError(f"{where}({kind}=…): {shown(given)} says nothing; write {kind}={example}")
            rule = rule_of(kind, given if isinstance(given, Mapping) else {}, where)
            if rule.is_once:
                raise FaultUsageError(f"{where}({kind}=…): say when, such as {kind}={_example(kind)}")
            rules.append(rule)
    return rules


def with_steps(rule: FaultRule, names: Collection[str]) -> FaultRule:
    """Return the rule with the names that its step has in the App."""
    return _with(rule, steps=frozenset(names))


def is_hit(seed: int, number: int, rule: FaultRule, key: bytes, hits: int) -> bool:
    """Roll for one command at a point: a pure function, the same on every machine.

    number: the rule's place in the test. key: what the command is known by in every run (RollKey.encode). hits: how
    often this rule has hit it before, so that a command that was hit is rolled for anew, and any other is not.
    """
    if rule.pct is None:
        return True
    text = f"fault|{number}|{rule.kind}|{rule.at}|{hits}|".encode() + key
    digest = hashlib.blake2b(text, digest_size=8, key=str(seed).encode()[-64:]).digest()
    return int.from_bytes(digest, "big") / 2**64 < rule.pct / 100


def _with(rule: FaultRule, **changes: Any) -> FaultRule:
    from dataclasses import replace

    return replace(rule, **changes)


def _check_together(rule: FaultRule, where: str) -> None:
    if rule.at is not None and rule.rate is not None:
        raise FaultUsageError(f"{where}: at= and rate= exclude each other; keep one")
    if rule.at is None:
        for name in ("nth", "pct", *_SCOPE):
            if getattr(rule, name) is not None:
                raise FaultUsageError(f"{where}: {name}= needs a point, such as at='before_settle'")
        if rule.times is not None and rule.rate is None:
            raise FaultUsageError(f"{where}: times= needs at= or rate=")
    if rule.nth is not None and (rule.pct is not None or rule.times is not None):
        raise FaultUsageError(f"{where}: nth= is one passage; leave out pct= and times=")
    if rule.kind == "network" and rule.lasts and rule.seconds is not None:
        raise FaultUsageError(f"{where}: seconds= needs at= or rate=; without them the network is so all the time")


def _toxics(kind: str, given: Mapping[str, Any], where: str) -> Toxics:
    if kind != "network":
        return Toxics()
    toxics = Toxics(
        latency_ms=_number(given, "latency_ms", where, 0, 60_000) or 0.0,
        jitter_ms=_number(given, "jitter_ms", where, 0, 60_000) or 0.0,
        timeout_ms=_number(given, "timeout_ms", where, 0, 3_600_000, least_included=True),
        reset_peer=_flag(given, "reset_peer", where),
        down=_flag(given, "down", where),
        stream=given.get("stream", "both"),
    )
    if toxics.stream not in STREAMS:
        raise FaultUsageError(f"{where}: stream={shown(toxics.stream)}; valid are {', '.join(map(repr, STREAMS))}")
    ends = [toxics.timeout_ms is not None, toxics.reset_peer, toxics.down]
    if sum(ends) > 1:
        raise FaultUsageError(f"{where}: timeout_ms, reset_peer and down exclude each other; keep one")
    if not any(ends) and not toxics.latency_ms and not toxics.jitter_ms:
        raise FaultUsageError(f"{where}: say what is wrong with the network: one of {', '.join(_NETWORK[:-1])}")
    return toxics


def _point(given: Mapping[str, Any], where: str) -> str | None:
    at = given.get("at")
    if at is not None and at not in POINTS:
        raise FaultUsageError(f"{where}: no point is called {shown(at)}; {_valid(at, POINTS)}")
    return None if at is None else str(at)


def _whole(given: Mapping[str, Any], name: str, where: str) -> int | None:
    value = given.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise FaultUsageError(f"{where}: {name}={shown(value)} is no whole number from 1 up")
    return value


def _number(
    given: Mapping[str, Any], name: str, where: str, least: float, most: float, *, least_included: bool = False
) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    fits = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
    if not fits or (value == least and not least_included and name != "jitter_ms"):
        bounds = f"from {least:g}" if least_included else f"above {least:g}"
        raise FaultUsageError(f"{where}: {name}={shown(value)} is no number {bounds} up to {most:g}")
    return float(value)


def _text(given: Mapping[str, Any], name: str, where: str) -> str | None:
    value = given.get(name)
    if value is not None and (not isinstance(value, str) or not value):
        raise FaultUsageError(f"{where}: {name}={shown(value)} is no name: give a text, such as {name}='Ship'")
    return value if value is None else str(value)


def _flag(given: Mapping[str, Any], name: str, where: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise FaultUsageError(f"{where}: {name}={shown(value)} is neither True nor False")
    return value


def _predicate(given: Mapping[str, Any], where: str) -> Callable[[Passage], object] | None:
    value = given.get("where")
    if value is None:
        return None
    if not callable(value) or inspect.iscoroutinefunction(value):
        raise FaultUsageError(
            f"{where}: where={shown(value)} is no plain function of a passage, such as where=lambda p: p.ordinal < 5"
        )
    return value  # type: ignore[no-any-return]


def _example(kind: str) -> str:
    if kind == "network":
        return '{"latency_ms": 200}'
    return '{"at": "before_settle"} or {"rate": 2}'


def _valid(name: object, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1) if isinstance(name, str) else []
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}valid are {', '.join(known)}"
