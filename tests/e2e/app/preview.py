"""What a behavior makes of a batch on the mean: the rolls of each attempt in their order, retries included. Pure."""

from dataclasses import dataclass

from pytest_commandbus.chaos import CommandBehavior
from tests.e2e.app.models import ProcessStepBehavior
from tests.e2e.app.process.statement_report import StatementReportStep

STEPS = ("query", "aggregation", "render")
"""The steps as a behavior names them, in their order."""


@dataclass(frozen=True, slots=True)
class StepOdds:
    """How one command ends, as probabilities that add to 1, and how many attempts it takes on the mean."""

    completes: float
    parks: float
    business_rule: float
    attempts: float


@dataclass(frozen=True, slots=True)
class ExpectedStep:
    """One step of a batch: so many processes come to it, and leave it so."""

    step: str
    begun: float
    odds: StepOdds


@dataclass(frozen=True, slots=True)
class Expected:
    """How the processes of a batch end on the mean."""

    count: int
    completed: float
    in_troubleshooting: float
    canceled: float
    retries: float
    steps: tuple[ExpectedStep, ...]


def odds(behavior: CommandBehavior | None, max_attempts: int) -> StepOdds:
    """Follow one command through its attempts: each failure that is transient or a timeout is tried again."""
    if behavior is None:
        return StepOdds(1.0, 0.0, 0.0, 1.0)
    permanent, business, timeout = (
        pct / 100 for pct in (behavior.fail_permanent_pct, behavior.fail_business_rule_pct, behavior.timeout_pct)
    )
    alive, completes, parks, rule, attempts = 1.0, 0.0, 0.0, 0.0, 0.0
    for failures in range(max_attempts):
        attempts += alive
        transient = 1.0 if failures < behavior.fail_transient_times else behavior.fail_transient_pct / 100
        parks += alive * permanent
        left = alive * (1 - permanent)
        goes_on = left * (1 - transient)
        rule += goes_on * business
        times_out = goes_on * (1 - business) * timeout
        completes += goes_on * (1 - business) * (1 - timeout)
        alive = left * transient + times_out
    return StepOdds(completes, parks + alive, rule, attempts)


def expect(count: int, behavior: ProcessStepBehavior, max_attempts: int) -> Expected:
    """Tell what becomes of `count` processes. A business rule that refuses a step cancels its process."""
    begun, parked, canceled, retries = float(count), 0.0, 0.0, 0.0
    steps = []
    for name, step in zip(STEPS, StatementReportStep, strict=True):
        of = odds(getattr(behavior, name), max_attempts)
        steps.append(ExpectedStep(step.value, begun, of))
        parked += begun * of.parks
        canceled += begun * of.business_rule
        retries += begun * (of.attempts - 1)
        begun *= of.completes
    return Expected(count, begun, parked, canceled, retries, tuple(steps))
