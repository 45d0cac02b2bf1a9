"""Sagas on paper: what happens to each command of a process as a script, and what must come of it.

A script is words, carried out one after another on one command:

  ok busy broken rule   it is claimed, and its handler succeeds, fails for now, fails for good, refuses
  crash                 it is claimed, and its worker never heard of again
  flight                its process is cancelled while the attempt that follows is in flight
  cancel                its process is cancelled while nobody has it
  answered              its process is cancelled while its reply waits for the manager
  op:retry op:complete op:cancel   it is parked, and an operator decides
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

PATH = ("Book", "Pay", "Notify", "Pay", "Ship")  # Notify cannot be undone, Pay is visited twice
UNDO = {"Book": "Unbook", "Pay": "Refund", "Ship": "Recall"}
REFUSED = ("REFUSED", "the business says no")
BY_OPERATOR, BY_CANCEL = ("CANCELED", "cancelled by ann: no hope"), ("CANCELED", "cancelled by bob: no need")
LOST = "crash crash crash"  # as many leases as it may lose

FAILURES = (
    "rule", "broken op:cancel", "busy rule", "broken op:retry rule",
    "cancel", "busy cancel", "broken cancel", "crash flight ok",
    "flight ok", "flight busy", "flight broken", "flight rule", "flight crash ok", "flight crash broken",
    f"flight {LOST} op:complete", f"flight {LOST} op:cancel", f"flight {LOST} op:retry ok",
    f"flight {LOST} op:retry broken", f"flight {LOST} cancel",
)  # fmt: skip
ROUTED_FAILURES = ("ok answered",)
TYPICAL_FAILURES = ("rule", "broken op:cancel", "cancel", "flight ok", "ok answered")  # each kind of way into undoing
DETOURS = ("busy ok", "broken op:retry ok", "broken op:complete", "crash ok", f"{LOST} op:complete")
UNDO_TROUBLE = (
    "rule", "busy ok", "crash ok", "broken op:retry ok", "broken op:complete", "broken op:cancel",
    f"{LOST} op:retry ok", f"{LOST} op:complete", f"{LOST} op:cancel",
)  # fmt: skip


@dataclass(frozen=True)
class Scenario:
    """Scripts of forward steps by their place in PATH, and of undo steps by their place in the undoing."""

    forward: tuple[tuple[int, str], ...] = ()
    undo: tuple[tuple[int, str], ...] = ()

    def script(self, place: int, *, is_undo: bool) -> list[str]:
        """The words for one command; without a script it succeeds."""
        return dict(self.undo if is_undo else self.forward).get(place, "ok").split()


@dataclass
class Sent:
    """A command as it must be found; `undoes` is the place of the one that it undoes."""

    step: str
    visit: int
    undoes: int | None
    status: str = ""
    events: list[str] = field(default_factory=list)
    late: int = 0  # outcomes that come too late
    replies: int = 0
    error: tuple[str, str] | None = None


@dataclass
class Expected:
    """What must be found of a process."""

    status: str = "COMPLETED"
    error: tuple[str | None, str | None] = (None, None)
    sent: list[Sent] = field(default_factory=list)


def scenarios(*, is_routed: bool, is_full: bool) -> Iterator[Scenario]:
    """Every failure at every step; typical ones, or all, with every trouble at every undo step; detours before them."""
    yield Scenario()
    for place in range(len(PATH)):
        for failure in FAILURES + (ROUTED_FAILURES if is_routed else ()):
            plain = Scenario(((place, failure),))
            yield plain
            if not is_full and failure not in TYPICAL_FAILURES:
                continue
            undos = [s for s in expected(plain).sent if s.undoes is not None]
            for at in range(len(undos)):
                for trouble in UNDO_TROUBLE:
                    yield Scenario(plain.forward, ((at, trouble),))
        for detour in DETOURS:
            yield Scenario(((place, detour),))
            for later in range(place + 1, len(PATH)):
                for failure in TYPICAL_FAILURES[:4] if is_full else TYPICAL_FAILURES[:1]:
                    yield Scenario(((place, detour), (later, failure)))


def expected(scenario: Scenario) -> Expected:
    """Say what the rules say: a reply that failed or a cancel undoes what was completed, newest first."""
    found = Expected()
    for place, step in enumerate(PATH):
        sent = Sent(step, PATH[: place + 1].count(step), None)
        found.sent.append(sent)
        is_cancelled = _play(sent, scenario.script(place, is_undo=False))
        if sent.status == "COMPLETED" and not is_cancelled:
            continue
        completed = [n for n, s in enumerate(found.sent) if s.status == "COMPLETED" and s.step in UNDO]
        found.error = sent.error or BY_CANCEL
        found.status = "CANCELED" if sent.status == "FAILED" or not completed else "COMPENSATED"
        _undo(found, scenario, completed[::-1])
        return found
    return found


def _undo(found: Expected, scenario: Scenario, completed: list[int]) -> None:
    for at, place in enumerate(completed):
        step = UNDO[found.sent[place].step]
        sent = Sent(step, 1 + sum(s.step == step for s in found.sent), place)
        found.sent.append(sent)
        _play(sent, scenario.script(at, is_undo=True))
        if sent.status != "COMPLETED":
            message = sent.error[1] if sent.error else ""
            found.status, found.error = "FAILED", ("UNDO_FAILED", f"{step} was not undone: {message}")
            return


def _play(sent: Sent, words: list[str]) -> bool:
    """Play a script on one command; returns whether its process was cancelled in flight or after the answer."""
    sent.events = ["SENT"]
    is_cancelled = is_parked = False
    for word in words:
        lost = sent.events.count("RECEIVED") if word == "crash" else 0
        match word:
            case "ok":
                _end(sent, "COMPLETED", "RECEIVED", "COMPLETED")
            case "rule":
                _end(sent, "FAILED", "RECEIVED", "BUSINESS_RULE_FAILED", error=REFUSED)
            case "busy" | "broken" if is_cancelled:
                _end(sent, "CANCELED", "RECEIVED", "CANCELED", error=BY_CANCEL)
            case "busy" | "broken":
                sent.events += ["RECEIVED", "RETRY_SCHEDULED" if word == "busy" else "MOVED_TO_TSQ"]
            case "crash":
                sent.late += 1
                sent.events += ["RECEIVED", "MOVED_TO_TSQ"] if lost == 2 else ["RECEIVED"]
            case "op:retry":
                sent.events.append("OPERATOR_RETRY")
            case "op:complete":
                _end(sent, "COMPLETED", "OPERATOR_COMPLETE")
            case "op:cancel":
                _end(sent, "CANCELED", "OPERATOR_CANCEL", error=BY_OPERATOR)
            case "cancel":
                _end(sent, "CANCELED", "OPERATOR_CANCEL" if is_parked else "CANCELED", error=BY_CANCEL, replies=0)
            case "flight" | "answered":
                is_cancelled = True
        is_parked = sent.events[-1] == "MOVED_TO_TSQ"
    return is_cancelled


def _end(sent: Sent, status: str, *events: str, error: tuple[str, str] | None = None, replies: int = 1) -> None:
    sent.status, sent.error, sent.replies = status, error, replies
    sent.events += events
