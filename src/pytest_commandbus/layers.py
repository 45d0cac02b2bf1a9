"""How the chaos rules of a test come together: profile of the run, markers of module, class and function. Pure."""

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

import pytest

from .chaos import ChaosUsageError
from .chaos_rules import ChaosRule, ChaosRules, StepNames
from .profiles import Profile, Profiles

if TYPE_CHECKING:
    from commandbus import App

    from .markers import ChaosMarker

MARKER = "@pytest.mark.chaos"


def names_of(app: "App", managers: Iterable[Any]) -> StepNames:
    """Return what rules for this App can be for."""
    return StepNames.of(managers, [handler.command_type for handler in app.registry])


def merge(
    run_profile: str | None,
    given: Iterable["ChaosMarker"],
    profiles: Profiles,
    names: StepNames,
    who: str = MARKER,
) -> ChaosRules:
    """Lay the markers, the farthest first, over the profile of the run: step by step the nearest wins.

    Within a marker a later profile lies over an earlier one, and its own steps over both. who: says so, for messages.
    Errors: pytest.UsageError.
    """
    rules = ChaosRules()
    try:
        if run_profile is not None:
            rules = _of_profile(profiles.get(run_profile, "--cb-chaos"), names)
        for marker in given:
            for name in marker.profiles:
                rules = ChaosRules.merge(rules, _of_profile(profiles.get(name, who), names))
            rules = ChaosRules.merge(rules, ChaosRules.from_marker(marker.steps, names, who))
    except ChaosUsageError as error:
        raise pytest.UsageError(str(error)) from None
    return rules


def idle(rules: Collection[ChaosRule], given: Iterable["ChaosMarker"], unmatched: Collection[str]) -> list[str]:
    """Return what markers say in vain: a step that did not run, a profile none of whose steps did.

    unmatched: the rules, as written, that were for nothing that ran. The profile of the run may be idle in a test.
    """
    said = [f"{rule.written}=…" for rule in rules if rule.profile is None and rule.written in unmatched]
    for name in dict.fromkeys(name for marker in given for name in marker.profiles):
        own = [rule.written for rule in rules if rule.profile == name]
        if own and all(written in unmatched for written in own):
            said.append(f'"{name}"')
    return said


def _of_profile(profile: Profile, names: StepNames) -> ChaosRules:
    return ChaosRules.from_marker(profile.behaviors(), names, profile.where, profile.name)
