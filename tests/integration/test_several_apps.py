"""Several domains and several applications on one database: each command reaches its own handlers, nothing is lost."""

import runpy
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from psycopg_pool import AsyncConnectionPool

from commandbus import (
    App,
    BatchCommand,
    BatchStatus,
    Command,
    CommandBus,
    HandlerContext,
    RetryPolicy,
    SendRequest,
    TroubleshootingQueue,
    Worker,
    migrate,
)
from tests.integration.deployments import PATIENCE, ask, audit_clean, deployed, ended, events, most_events
from tests.integration.process_kit import OrderProcess
from tests.integration.worker_kit import eventually, running


@pytest.fixture
def dsn(empty_dsn: str) -> str:
    migrate(empty_dsn)
    return empty_dsn


@pytest_asyncio.fixture
async def pool(dsn: str) -> AsyncIterator[AsyncConnectionPool[Any]]:
    async with AsyncConnectionPool(dsn, min_size=1, max_size=24, open=False) as opened:
        yield opened


def make_app(name: str, *handled: tuple[str, str]) -> App:
    """An application whose handlers say that it was this one."""
    app = App(name=name, retry_policy=RetryPolicy(max_attempts=3, backoff_schedule=[0]))

    async def work(command: Command, context: HandlerContext) -> dict[str, Any]:
        if command.data.get("fail_in") == command.command_type:
            raise ValueError("as the test wants")
        return {"by": name, "domain": command.domain}

    for domain, command_type in handled:
        app.registry.add(domain, command_type, work)
    return app


def worker_of(app: App, pool: AsyncConnectionPool[Any], domain: str, **options: Any) -> Worker:
    return Worker(
        pool, domain=domain, handler_registry=app.registry, processes=app.processes(pool),
        retry_policy=app.retry_policy, **options,
    )  # fmt: skip


async def by_whom(dsn: str) -> dict[tuple[str, str], set[str]]:
    """Which applications handled each type of each domain."""
    rows = await ask(
        dsn,
        """SELECT domain, command_type, array_agg(DISTINCT coalesce(result ->> 'by', 'nobody'))
             FROM commandbus.command GROUP BY domain, command_type""",
    )
    return {(domain, command_type): set(names) for domain, command_type, names in rows}


@pytest.mark.asyncio
async def test_one_type_in_two_domains_has_two_handlers(dsn: str, pool: AsyncConnectionPool[Any]) -> None:
    shop, bank = make_app("shop", ("orders", "Close")), make_app("bank", ("accounts", "Close"))
    bus = CommandBus(pool)
    batches = {
        domain: await bus.create_batch(
            domain, [BatchCommand(command_type="Close", command_id=uuid4(), data={}) for _ in range(100)], name=domain
        )
        for domain in ("orders", "accounts")
    }
    async with running(worker_of(shop, pool, "orders")), running(worker_of(bank, pool, "accounts")):
        await eventually(lambda: ended(dsn), "the end of both batches")
    assert await by_whom(dsn) == {("orders", "Close"): {"shop"}, ("accounts", "Close"): {"bank"}}
    for domain, batch_id in batches.items():
        batch = await bus.get_batch(domain, batch_id)
        assert (batch.status, batch.completed_count, batch.total_count) == (BatchStatus.COMPLETED, 100, 100)
    assert (await events(dsn))["RECEIVED"] == 200
    await audit_clean(dsn)


@pytest.mark.asyncio
async def test_two_applications_share_a_domain_and_each_handles_its_own(
    dsn: str, pool: AsyncConnectionPool[Any]
) -> None:
    """Neither takes what only the other handles; what is claimed before they know of each other comes back."""
    shop, mail = make_app("shop", ("orders", "Reserve"), ("orders", "Both")), make_app("mail", ("orders", "Both"))
    mail.registry.add("orders", "Notify", next(iter(mail.registry)).function)
    bus = CommandBus(pool)
    async with running(worker_of(shop, pool, "orders")), running(worker_of(mail, pool, "orders")):
        requests = [
            SendRequest(domain="orders", command_type=command_type, command_id=uuid4(), data={})
            for _ in range(100)
            for command_type in ("Reserve", "Notify", "Both")
        ]
        await bus.send_batch(requests)
        await eventually(lambda: ended(dsn), "the end of all")
    found = await by_whom(dsn)
    assert (found["orders", "Reserve"], found["orders", "Notify"]) == ({"shop"}, {"mail"})
    assert found["orders", "Both"] <= {"shop", "mail"}
    counted = await events(dsn)
    assert (counted["COMPLETED"], counted["RETRY_SCHEDULED"], counted["MOVED_TO_TSQ"]) == (300, 0, 0)
    assert await most_events(dsn, "RELEASED") <= 2
    await audit_clean(dsn)


class Sale(OrderProcess):
    """Lives in the shop; it is paid in the bank's domain, and refunded there."""

    process_type = "Sale"
    domain = "orders"

    def build_command(self, step: str, state: Any) -> Any:
        command = super().build_command(step, state)
        where = "accounts" if step in ("Pay", "Refund") else "orders"
        data = {**command.data, "fail_in": FAILING.get(state.order % 10)}
        return type(command)(command.command_type, data, domain=where)


FAILING = {3: "Ship", 7: "Pay"}  # of ten sales one is refused in the shop after it was paid, one in the bank


@pytest.mark.asyncio
async def test_a_process_whose_step_is_handled_in_another_application_s_domain(
    dsn: str, pool: AsyncConnectionPool[Any]
) -> None:
    shop = make_app("shop", ("orders", "Reserve"), ("orders", "Ship"), ("orders", "Return"))
    shop.add_process(Sale)
    bank = make_app("bank", ("accounts", "Pay"), ("accounts", "Refund"))
    bus, sales = CommandBus(pool), Sale(pool)
    async with running(worker_of(shop, pool, "orders")), running(worker_of(bank, pool, "accounts")):
        batch_id = await bus.create_process_batch("orders", 100, name="sales")
        await sales.start_many(({"order": n} for n in range(100)), batch_id)
        await eventually(lambda: ended(dsn), "the end of all but the parked")
        parked = await bus.get_batch("orders", batch_id)
        assert (parked.completed_count, parked.in_troubleshooting_count) == (80, 20)
        for operators, domain in (
            (TroubleshootingQueue(pool), "accounts"),  # the bank's own, which knows nothing of sales
            (TroubleshootingQueue(pool, processes=[sales]), "orders"),
        ):
            rows = await ask(dsn, "SELECT command_id FROM commandbus.troubleshooting WHERE domain = %s", domain)
            assert len(rows) == 10
            for (command_id,) in rows:
                await operators.operator_cancel(command_id, operator="ann", reason="given up")
        await eventually(lambda: ended(dsn), "the end of all")
    batch = await bus.get_batch("orders", batch_id)
    assert (batch.status, batch.completed_count, batch.canceled_count) == (BatchStatus.COMPLETED, 100, 0)
    rows = await ask(dsn, "SELECT status, count(*) FROM commandbus.process GROUP BY status ORDER BY status")
    assert rows == [("COMPENSATED", 20), ("COMPLETED", 80)]
    assert await ask(dsn, "SELECT count(*) FROM commandbus.reply") == [(0,)]
    found = await by_whom(dsn)
    assert found["accounts", "Refund"] == {"bank"}
    assert found["orders", "Return"] == {"shop"}
    await audit_clean(dsn)


SHOP = """
from commandbus import App, RetryPolicy
from commandbus.process import BaseProcessManager, ProcessCommand
from enum import StrEnum

NAME = "{name}"
app = App(name=NAME, retry_policy=RetryPolicy(max_attempts=3, backoff_schedule=[0]))

async def work(command, context):
    return {{"by": NAME}}

for domain, command_type in {handled!r}:
    app.registry.add(domain, command_type, work)

class Step(StrEnum):
    FIRST = "First"
    SECOND = "Second"

class Process(BaseProcessManager):
    process_type = "{name}"
    domain = "{domain}"
    state_class = dict
    step_class = Step

    def create_initial_state(self, initial_data):
        return dict(initial_data)

    def get_first_step(self, state):
        return Step.FIRST

    def build_command(self, step, state):
        domain, command_type = {{Step.FIRST: {first!r}, Step.SECOND: {second!r}}}[step]
        return ProcessCommand(command_type, {{}}, domain=domain)

    def update_state(self, state, step, response):
        state[str(step)] = response.result["by"]

    def get_next_step(self, current_step, response, state):
        return Step.SECOND if current_step is Step.FIRST else None

app.add_process(Process)
"""


def write_apps(folder: Path) -> None:
    """Two applications that work for one another: a step of each one's process is the other's to do."""
    ours, theirs = ("orders", "Reserve"), ("billing", "Charge")
    (folder / "shop.py").write_text(
        SHOP.format(name="shop", domain="orders", handled=[ours, ("orders", "Print")], first=ours, second=theirs)
    )
    (folder / "bank.py").write_text(
        SHOP.format(name="bank", domain="billing", handled=[theirs, ("orders", "Post")], first=theirs, second=ours)
    )


@pytest.mark.slow
@pytest.mark.asyncio
async def test_worker_processes_of_two_applications_also_when_one_is_killed(
    dsn: str, pool: AsyncConnectionPool[Any], tmp_path: Path
) -> None:
    write_apps(tmp_path)
    began = monotonic()
    options = ("--visibility-timeout", "2")
    with deployed(tmp_path, dsn, "shop:app", *options) as shop, deployed(tmp_path, dsn, "bank:app", *options) as bank:
        shop.until_ready(), bank.until_ready()
        bus = CommandBus(pool)
        sent = [
            SendRequest(domain="orders", command_type=command_type, command_id=uuid4(), data={})
            for _ in range(100)
            for command_type in ("Print", "Post")
        ]
        batches: dict[str, UUID] = {}
        for name, domain in (("shop", "orders"), ("bank", "billing")):
            manager = runpy.run_path(str(tmp_path / f"{name}.py"))["Process"](pool)
            batches[domain] = await bus.create_process_batch(domain, 100, name=name)
            await manager.start_many(({"n": n} for n in range(100)), batches[domain])
        await bus.send_batch(sent)
        bank.kill()
        with deployed(tmp_path, dsn, "bank:app", *options) as bank_again:
            bank_again.until_ready()
            await eventually(lambda: ended(dsn), "the end of everything", patience=PATIENCE)
            shop.stop(), bank_again.stop()
    assert await by_whom(dsn) == {
        ("orders", "Reserve"): {"shop"},
        ("orders", "Print"): {"shop"},
        ("billing", "Charge"): {"bank"},
        ("orders", "Post"): {"bank"},
    }
    for domain, batch_id in batches.items():
        assert (await bus.get_batch(domain, batch_id)).completed_count == 100
    states = await ask(
        dsn, "SELECT DISTINCT process_type, state ->> 'First', state ->> 'Second' FROM commandbus.process"
    )
    assert sorted(states) == [("bank", "bank", "shop"), ("shop", "shop", "bank")]
    counted = await events(dsn)
    assert (counted["RETRY_SCHEDULED"], counted["MOVED_TO_TSQ"]) == (0, 0)
    # An application looks for what is the other's only now and then, as long as nobody else is there.
    assert await most_events(dsn, "RELEASED") <= 2 + (monotonic() - began)
    await audit_clean(dsn)
