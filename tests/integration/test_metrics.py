"""What Prometheus is told: by a worker's middleware, and by a collector that asks the database."""

import re

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from commandbus import BusinessRuleError, Command, HandlerContext, PermanentCommandError, TransientCommandError
from commandbus.metrics import BusCollector, Metrics
from tests.integration.worker_kit import Bench, eventually

pytestmark = pytest.mark.asyncio


def figures(registry: CollectorRegistry, domain: str | None = None) -> dict[str, float]:
    """Each sample as its line tells it, without the domain; only that domain's, or only those without one."""
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    label = re.compile(rf'domain="{domain}",?')
    if domain is None:
        own = [line for line in lines if "domain=" not in line]
    else:
        own = [label.sub("", line).replace(",}", "}") for line in lines if label.search(line)]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in own)}


async def test_attempts_outcomes_durations_and_the_state_of_the_bus(bench: Bench) -> None:
    counted, state = CollectorRegistry(), CollectorRegistry()
    metrics = Metrics(counted, buckets=[60.0])
    state.register(BusCollector(bench.dsn))

    @bench.handler("Pay")
    async def pay(command: Command, context: HandlerContext) -> None:
        if command.data["end"] == "refused":
            raise BusinessRuleError("NO", "no")
        if command.data["end"] == "broken":
            raise PermanentCommandError("BROKEN", "an operator decides")
        if context.attempt == 1:
            raise TransientCommandError("BUSY", "once more")

    for end in ("refused", "broken", "well"):
        await bench.send("Pay", {"end": end})
    before = figures(state, bench.domain)
    assert before['commandbus_commands{state="backlog"}'] == 3
    assert before["commandbus_oldest_due_seconds{}"] >= 0
    async with bench.worker(middleware=[metrics]):

        async def look() -> dict[str, float] | None:
            found = figures(counted, bench.domain)
            return found if found.get('commandbus_outcomes_total{command_type="Pay",event="COMPLETED"}') else None

        found = await eventually(look, "the last outcome", patience=60)
        alive = figures(state, bench.domain)
    assert {name: value for name, value in found.items() if not re.search("_created|_sum|_bucket", name)} == {
        'commandbus_attempts_total{command_type="Pay"}': 4,
        'commandbus_outcomes_total{command_type="Pay",event="COMPLETED"}': 1,
        'commandbus_outcomes_total{command_type="Pay",event="BUSINESS_RULE_FAILED"}': 1,
        'commandbus_outcomes_total{command_type="Pay",event="MOVED_TO_TSQ"}': 1,
        'commandbus_outcomes_total{command_type="Pay",event="RETRY_SCHEDULED"}': 1,
        'commandbus_handler_seconds_count{command_type="Pay"}': 4,
    }
    assert found['commandbus_handler_seconds_bucket{command_type="Pay",le="60.0"}'] == 4
    assert sum(alive[f'commandbus_workers{{state="{state}"}}'] for state in ("alive", "dead")) == 1  # by its heartbeat
    assert alive['commandbus_commands{state="backlog"}'] == 0
    assert alive['commandbus_parked{command_type="Pay"}'] == 1
    (age,) = [value for name, value in alive.items() if name.startswith("commandbus_heartbeat_age_seconds")]
    assert 0 <= age < 3_600
    after = figures(state, bench.domain)  # the worker told its last figures when it stopped
    ended = {m[1]: v for n, v in after.items() if (m := re.search(r'^commandbus_ended_total.*outcome="(\w+)"', n))}
    assert ended in ({}, {"completed": 1, "failed": 1, "retried": 1, "parked": 1, "dropped": 0})
    assert figures(state)["commandbus_up"] == 1


async def test_a_database_that_is_away_is_a_figure_and_no_error(bench: Bench) -> None:
    registry = CollectorRegistry()
    registry.register(BusCollector("postgresql://nobody@127.0.0.1:1/none", timeout=30))
    assert figures(registry) == {"commandbus_up": 0}
