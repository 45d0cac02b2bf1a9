"""What was injected, for assertions, failure reports and audits. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

SHOWN = 40
_COMMANDS = 3


@dataclass(frozen=True, slots=True)
class Injection:
    """One fault that was injected.

    kind: as in the marker. point: where, None for one that was injected at a rate or by hand. at: seconds since the
    test's first fault could come. pid: the worker process that it hit, None for what hits all. commands: those that
    passed the point and were hit, in words that are the same in every run. detail: what more there is to say.
    """

    kind: str
    point: str | None
    at: float
    pid: int | None
    commands: tuple[str, ...] = ()
    detail: str = ""

    def __str__(self) -> str:
        parts = [f"{self.at:+9.2f} s", self.kind]
        if self.point is not None:
            parts.append(f"at {self.point}")
        if self.pid is not None:
            parts.append(f"pid {self.pid}")
        if self.detail:
            parts.append(self.detail)
        if self.commands:
            more = len(self.commands) - _COMMANDS
            parts.append(", ".join(self.commands[:_COMMANDS]) + (f" and {more} more" if more > 0 else ""))
        return "  ".join(parts)


def render(injections: Sequence[Injection]) -> str:
    """Return a line for each, the last ones of many."""
    left_out = len(injections) - SHOWN
    lines = [f"  ({left_out} earlier ones left out)"] if left_out > 0 else []
    return "\n".join([*lines, *(f"  {injection}" for injection in injections[-SHOWN:])])
