"""The oracle: what chaos will do to every single process, worked out before, or checked after, a run. Pure.

It rolls as the injector does, and follows the bus's rules: a permanent failure parks the command; a transient one or
a timeout is retried until max_attempts failures are recorded, and then parked, or FAILED where the retry policy says
so; a business rule failure, or one so FAILED, undoes the completed steps, newest first, one at a time. A process that
waits for an operator is WAITING_FOR_TSQ; once all is undone, or there was nothing to undo, it is CANCELED; when an undo
step's own command is FAILED, FAILED.
The handlers' own failures are not foreseen, nor what operators do.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from commandbus.process.models import ProcessStatus

from .chaos import ChaosUsageError, CommandBehavior, RollKey, roll
from .chaos_rules import ChaosRules
from .path_probe import declared_path

_NO_FAILURES: Mapping[str, int] = MappingProxyType({})


class PredictedManager(Protocol):
    """What the oracle asks a process manager: nothing of it runs a command."""

    @property
    def process_type(self) -> str: ...
    def get_first_step(self, state: Any) -> str: ...
    def get_next_step(self, current_step: Any, response: Any, state: Any) -> str | None: ...
    def get_compensation_step(self, step: Any) -> str | None: ...


@dataclass(frozen=True, slots=True)
class ProcessPrediction:
    """What becomes of one process.

    outcome: its status once it is terminal or parked. failing_step: the step that parked, canceled or failed it.
    failures: failed attempts by step, as the audit trail will have them; retries: those that were tried again.
    """

    ordinal: int
    outcome: ProcessStatus
    failing_step: str | None = None
    failures: Mapping[str, int] = field(default_factory=lambda: _NO_FAILURES)
    retries: int = 0

    @property
    def recorded_failures(self) -> int:
        """Failed attempts over all steps."""
        return sum(self.failures.values())


@dataclass(frozen=True, slots=True)
class Prediction:
    """What becomes of a batch: every process in the order of its ordinals, and the counts of the batch's stats."""

    processes: tuple[ProcessPrediction, ...]
    outcomes: Mapping[ProcessStatus, int]
    retries: int

    @classmethod
    def of(cls, processes: Iterable[ProcessPrediction]) -> "Prediction":
        """Count what became of processes: predicted ones, or observed ones in the same form."""
        known = tuple(processes)
        return cls(known, Counter(process.outcome for process in known), sum(process.retries for process in known))

    @property
    def completed_count(self) -> int:
        """Processes that end COMPLETED (or COMPENSATED, which takes an operator)."""
        return self.outcomes.get(ProcessStatus.COMPLETED, 0)

    @property
    def canceled_count(self) -> int:
        """Processes that end CANCELED or FAILED."""
        return self.outcomes.get(ProcessStatus.CANCELED, 0) + self.outcomes.get(ProcessStatus.FAILED, 0)

    @property
    def in_troubleshooting_count(self) -> int:
        """Processes that end up waiting for an operator."""
        return self.outcomes.get(ProcessStatus.WAITING_FOR_TSQ, 0)


def predict(
    manager: PredictedManager,
    rules: ChaosRules | Callable[[int], ChaosRules],
    *,
    count: int,
    seed: int,
    batch: int,
    max_attempts: int,
    fails_when_exhausted: bool = False,
    first_ordinal: int = 0,
    path: Sequence[str] | None = None,
    command_types: Mapping[str, str] | None = None,
) -> Prediction:
    """Predict processes `first_ordinal` to `first_ordinal + count - 1` of the test's batch number `batch`.

    rules: the test's, or a function that gives those of one ordinal (for behavior that travels in a process's state).
    max_attempts: the retry policy's; fails_when_exhausted: its on_exhausted is "fail". path: the steps in the order in
    which they run; without it the manager is asked, which must be able to tell without seeing state or results.
    command_types: step -> command type, needed when a rule is for a command type that is no step's name.
    Raises ChaosUsageError when the path depends on results, or a rule may change them, and no path was given.
    """
    steps = [str(step) for step in path] if path is not None else declared_path(manager)
    undo = _undo_steps(manager, steps)
    every = list(dict.fromkeys([*steps, *undo.values()]))
    types = command_types or {}
    rules_of = rules if callable(rules) else lambda _: rules
    shared: tuple[ChaosRules, dict[str, CommandBehavior]] | None = None
    processes = []
    for ordinal in range(first_ordinal, first_ordinal + count):
        applying = rules_of(ordinal)
        if shared is None or shared[0] is not applying:
            behaviors = _behaviors(applying, every, types)
            _check(manager, applying, behaviors, every, types, path)
            shared = (applying, behaviors)
        processes.append(_Run(seed, batch, ordinal, max_attempts, shared[1], fails_when_exhausted).predict(steps, undo))
    return Prediction.of(processes)


class _Run:
    """One process as it goes."""

    __slots__ = (
        "_batch",
        "_behaviors",
        "_exhausted",
        "_failures",
        "_max_attempts",
        "_ordinal",
        "_retries",
        "_seed",
        "_visits",
    )

    def __init__(
        self,
        seed: int,
        batch: int,
        ordinal: int,
        max_attempts: int,
        behaviors: Mapping[str, CommandBehavior],
        fails_when_exhausted: bool,
    ) -> None:
        self._seed, self._batch, self._ordinal = seed, batch, ordinal
        self._max_attempts = max_attempts
        self._exhausted = ProcessStatus.FAILED if fails_when_exhausted else ProcessStatus.WAITING_FOR_TSQ
        self._behaviors = behaviors
        self._visits: dict[str, int] = {}
        self._failures: dict[str, int] | None = None
        self._retries = 0

    def predict(self, steps: Sequence[str], undo: Mapping[str, str]) -> ProcessPrediction:
        completed: list[str] = []
        for step in steps:
            outcome = self._send(step)
            if outcome is None:
                completed.append(step)
            elif outcome is ProcessStatus.WAITING_FOR_TSQ:
                return self._ended(outcome, step)
            else:
                return self._undo(step, [undo[done] for done in reversed(completed) if done in undo])
        return self._ended(ProcessStatus.COMPLETED, None)

    def _undo(self, failed: str, steps: Iterable[str]) -> ProcessPrediction:
        for step in steps:
            outcome = self._send(step)
            if outcome is not None:
                return self._ended(outcome, step)
        return self._ended(ProcessStatus.CANCELED, failed)

    def _send(self, step: str) -> ProcessStatus | None:
        """Run the step's command to its end: None for success, else what its process becomes if nothing is undone."""
        visit = self._visits[step] = self._visits.get(step, 0) + 1
        behavior = self._behaviors.get(step)
        if behavior is None:
            return None
        for failures in range(self._max_attempts):
            key = RollKey(self._batch, self._ordinal, step, visit, failures)
            outcome = roll(self._seed, key, behavior).outcome
            if outcome == "success":
                return None
            self._count(step)
            if outcome == "business_rule":
                return ProcessStatus.FAILED
            if outcome == "permanent":
                return ProcessStatus.WAITING_FOR_TSQ
            if failures + 1 < self._max_attempts:
                self._retries += 1
        return self._exhausted

    def _count(self, step: str) -> None:
        if self._failures is None:
            self._failures = {}
        self._failures[step] = self._failures.get(step, 0) + 1

    def _ended(self, outcome: ProcessStatus, failing_step: str | None) -> ProcessPrediction:
        failures = _NO_FAILURES if self._failures is None else self._failures
        return ProcessPrediction(self._ordinal, outcome, failing_step, failures, self._retries)


def _undo_steps(manager: PredictedManager, steps: Iterable[str]) -> dict[str, str]:
    """Give step -> the step that undoes it, for those that have one."""
    members: Mapping[str, Any] = {str(step): step for step in getattr(manager, "step_class", ())}
    undo = {step: manager.get_compensation_step(members.get(step, step)) for step in steps}
    return {step: str(undoing) for step, undoing in undo.items() if undoing is not None}


def _behaviors(rules: ChaosRules, steps: Iterable[str], types: Mapping[str, str]) -> dict[str, CommandBehavior]:
    found = {step: rules.find(step, types.get(step)) for step in steps}
    return {step: rule.behavior for step, rule in found.items() if rule is not None}


def _check(
    manager: PredictedManager,
    rules: ChaosRules,
    behaviors: Mapping[str, CommandBehavior],
    steps: Sequence[str],
    types: Mapping[str, str],
    path: Sequence[str] | None,
) -> None:
    """Refuse what cannot be told for certain."""
    where = f"the outcome of {manager.process_type} cannot be predicted"
    changed = [step for step, behavior in behaviors.items() if behavior.changes_response]
    if path is None and changed:
        raise ChaosUsageError(
            f"{where}: the behavior of {', '.join(changed)} changes what the manager's update_state is given "
            "(response_data or send_response); say what it makes of that by path=[steps…]"
        )
    untyped = [step for step in steps if step not in types]
    strangers = [rule.written for rule in rules if not {*steps, *types.values()}.intersection(rule.names)]
    if untyped and strangers:
        raise ChaosUsageError(
            f"{where}: the chaos rule {', '.join(strangers)} is for none of its steps, and may be for the command type "
            f"of {', '.join(untyped)}; say which those have by command_types={{step: command type}}"
        )
