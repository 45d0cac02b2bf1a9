"""Chaos rules: which behavior applies to which step or command type, by names as people write them. Pure."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .chaos import ChaosUsageError, CommandBehavior, behavior_of


@dataclass(frozen=True, slots=True)
class Target:
    """What a rule can be for: a step, a command type, or both where they are the same but for case and underscores.

    `names` are what running commands carry (values of the step enum, command types); `labels` are all its spellings.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def name(self) -> str:
        """The first of its names: the one that messages show."""
        return self.names[0]


class StepNames:
    """The names that chaos rules may use, each compared without regard to case, `_`, `-`, `.` and spaces."""

    def __init__(self, steps: Iterable[Iterable[Enum]] = (), command_types: Iterable[str] = ()) -> None:
        """Take step classes (of the process managers), and the command types that have a handler."""
        names: dict[str, list[str]] = {}
        labels: dict[str, list[str]] = {}
        for member in (member for step_class in steps for member in step_class):
            value = str(member.value)
            _add(names, value, value)
            _add(labels, value, value)
            _add(labels, value, member.name)
        for command_type in command_types:
            same = [key for key, known in labels.items() if _plain(command_type) in map(_plain, known)]
            for key in same or [command_type]:
                _add(names, key, command_type)
                _add(labels, key, command_type)
        self._targets = tuple(Target(tuple(names[key]), tuple(labels[key])) for key in names)

    @classmethod
    def of(cls, managers: Iterable[Any], command_types: Iterable[str]) -> "StepNames":
        """Take the steps of process managers (instances, or classes with a plain `step_class`)."""
        return cls([manager.step_class for manager in managers], command_types)

    def resolve(self, written: str, where: str) -> Target:
        """Find the one target that `written` names in full, else by a part. Raises ChaosUsageError, led by `where`."""
        exact = [t for t in self._targets if written in t.labels]
        plain = _plain(written)
        full = [t for t in self._targets if plain in map(_plain, t.labels)]
        part = [t for t in self._targets if plain and any(plain in _plain(label) for label in t.labels)]
        for found in (exact, full, part):
            if len(found) == 1:
                return found[0]
            if found:
                options = ", ".join(sorted(t.name for t in found))
                raise ChaosUsageError(f"{where}: {written!r} is ambiguous: it is part of {options}; write one in full")
        raise ChaosUsageError(f"{where}: no step or command type is called {written!r}; {self._valid(written)}")

    def _valid(self, written: str) -> str:
        spelled = {t.name: "/".join(t.labels) for t in self._targets}
        if not spelled:
            return "none is declared: give the App its processes and handlers first"
        labels = {_plain(label): t.name for t in self._targets for label in t.labels}
        near = difflib.get_close_matches(_plain(written), labels, n=1)
        hint = f"did you mean {labels[near[0]]}? " if near else ""
        return f"{hint}valid are {', '.join(sorted(spelled.values()))}, or a unique part of one"


@dataclass(frozen=True, slots=True)
class ChaosRule:
    """A behavior for every command that carries one of `names` as its step or its command type.

    `written` is the rule's name where it was written, for messages; `profile` the profile that it is of, if any.
    """

    names: tuple[str, ...]
    behavior: CommandBehavior
    written: str
    profile: str | None = None

    @property
    def name(self) -> str:
        """What the rule is known by: the first of its names."""
        return self.names[0]


class ChaosRules:
    """The rules of one test; at most one for a name."""

    def __init__(self, rules: Iterable[ChaosRule] = ()) -> None:
        self._by_name = {name: rule for rule in rules for name in rule.names}

    @classmethod
    def from_marker(
        cls,
        given: Mapping[str, Any],
        names: StepNames,
        where: str = "@pytest.mark.chaos",
        profile: str | None = None,
    ) -> "ChaosRules":
        """Make the rules of one marker or profile: `step={field: value}`. Raises ChaosUsageError."""
        rules: dict[str, ChaosRule] = {}
        for written, value in given.items():
            target = names.resolve(written, where)
            if target.name in rules:
                twice = f"{rules[target.name].written!r} and {written!r} are both {target.name}"
                raise ChaosUsageError(f"{where}: {twice}; keep one of them")
            behavior = behavior_of(value, f"{where}({written}=…)")
            rules[target.name] = ChaosRule(target.names, behavior, written, profile)
        return cls(rules.values())

    @classmethod
    def merge(cls, outer: "ChaosRules", inner: "ChaosRules") -> "ChaosRules":
        """Lay the rules of a nearer place over those of a farther one: the nearest wins, step by step."""
        merged = cls()
        merged._by_name = {**outer._by_name, **inner._by_name}
        return merged

    def find(self, step: str | None, command_type: str | None) -> ChaosRule | None:
        """Return the rule for a command: the one for its step, else the one for its command type."""
        found = self._by_name.get(step) if step is not None else None
        if found is None and command_type is not None:
            found = self._by_name.get(command_type)
        return found

    @property
    def names(self) -> frozenset[str]:
        """All steps and command types that a rule is for."""
        return frozenset(self._by_name)

    def __iter__(self) -> Iterator[ChaosRule]:
        return iter({id(rule): rule for rule in self._by_name.values()}.values())

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _add(known: dict[str, list[str]], key: str, value: str) -> None:
    values = known.setdefault(key, [])
    if value not in values:
        values.append(value)


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c not in "_-. ")
