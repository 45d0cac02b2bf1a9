"""Chaos profiles: named sets of behaviors, from pyproject.toml and from the fixture cb_chaos_profiles."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from .shown import shown

if TYPE_CHECKING:
    from .chaos import CommandBehavior

FIXTURE = "cb_chaos_profiles"
TABLE = ("tool", "commandbus", "chaos")


class Profile(NamedTuple):
    """A named set of behaviors by step, as it was written. `where` tells where that is, for messages."""

    name: str
    steps: Mapping[str, Any]
    where: str

    def behaviors(self) -> "dict[str, CommandBehavior]":
        """Return the checked behavior of each step. Errors: pytest.UsageError, naming file, table, step and field."""
        from .chaos import ChaosUsageError, behavior_of  # pydantic, only where there is chaos

        try:
            return {step: behavior_of(given, f"{self.where}, {step}") for step, given in self.steps.items()}
        except ChaosUsageError as error:
            raise pytest.UsageError(str(error)) from None


class Profiles:
    """The profiles of a run: those of pyproject.toml, read and checked by name when one is asked for."""

    def __init__(self, file: Path, profiles: Iterable[Profile] | None = None) -> None:
        """Take the file that the run's configuration stands in, or would stand in."""
        self.file = file
        self._profiles = None if profiles is None else {profile.name: profile for profile in profiles}

    def with_fixture(self, given: object) -> "Profiles":
        """Return these with those that the fixture returned, which replace the ones of the same name."""
        where = f"the fixture {FIXTURE}"
        if not isinstance(given, Mapping):
            raise pytest.UsageError(
                f"{where} returns {type(given).__name__}: let it return a dict of profiles, such as "
                '{"flaky-render": {"render": {"fail_transient_pct": 30}}}'
            )
        added = [_profile(str(name), steps, f"{where}, profile {str(name)!r}") for name, steps in given.items()]
        return Profiles(self.file, [*self._known().values(), *added]) if added else self

    def has(self, name: str) -> bool:
        """Tell whether there is a profile of this name. Errors: pytest.UsageError for a file that cannot be read."""
        return name in self._known()

    def get(self, name: str, who: str) -> Profile:
        """Return a profile. Errors: pytest.UsageError, led by `who` asks for it, that lists the known ones."""
        known = self._known()
        if name in known:
            return known[name]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        listed = f"known are {', '.join(sorted(known))}" if known else "none is declared"
        header = f"[{'.'.join([*TABLE, name or 'NAME'])}]"
        raise pytest.UsageError(
            f"{who}: no chaos profile is called {name!r}; {hint}{listed}. Declare it as a table {header} in "
            f"{self.file}, or return it from the fixture {FIXTURE}"
        )

    def _known(self) -> dict[str, Profile]:
        if self._profiles is None:
            self._profiles = _read(self.file)
        return self._profiles


def pyproject_of(config: pytest.Config) -> Path:
    """Return where the run's pyproject.toml is, or would be."""
    used = config.inipath
    return used if used is not None and used.name == "pyproject.toml" else config.rootpath / "pyproject.toml"


def _read(file: Path) -> dict[str, Profile]:
    import tomllib

    try:
        table: Any = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"{file}: the chaos profiles in it cannot be read: {error}") from None
    for depth, key in enumerate(TABLE, start=1):
        table = table.get(key, {})
        if not isinstance(table, Mapping):
            raise pytest.UsageError(
                f"{file}: {'.'.join(TABLE[:depth])} is {shown(table)}, not a table: write each chaos profile as a "
                f"table [{'.'.join(TABLE)}.NAME]"
            )
    return {name: _profile(name, steps, f"{file}, [{'.'.join(TABLE)}.{name}]") for name, steps in table.items()}


def _profile(name: str, steps: object, where: str) -> Profile:
    if not isinstance(steps, Mapping) or not steps:
        what = "it names no step" if isinstance(steps, Mapping) else f"it is {shown(steps)}"
        raise pytest.UsageError(
            f"{where}: a chaos profile has a behavior for each step, and {what}: write "
            "render = { fail_transient_pct = 30 }"
        )
    return Profile(name, steps, where)
