"""StatementReport processes on a real bus: what they ask, what they leave, and what a behavior makes of them."""

import asyncio
import csv
import time
from collections.abc import Awaitable, Callable
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg_pool import AsyncConnectionPool
from pypdf import PdfReader

from commandbus import App, CommandBus, CommandStatus, HandlerContext, Middleware, TroubleshootingQueue, Worker
from commandbus.process import ProcessMetadata, ProcessStatus
from pytest_commandbus.chaos import CommandBehavior
from tests.e2e.app import ledger
from tests.e2e.app.files import VARIABLE
from tests.e2e.app.main import app
from tests.e2e.app.models import ProcessStepBehavior, TestCommandRepository
from tests.e2e.app.process.statement_report import StatementReportProcess, StatementReportState, StatementReportStep
from tests.e2e.app.rendering import OutputType, money
from tests.json_values import texts

Pool = AsyncConnectionPool[Any]
ACCOUNTS = ["ACC-0003", "ACC-0017"]

# What the ledger itself says: the totals by account and category of two accounts in May 2026.
OWN_TOTALS = """
SELECT a.account_number, t.category, count(*), sum(t.amount_cents)
  FROM ledger.accounts a JOIN ledger.transactions t USING (account_id)
 WHERE a.account_number = ANY (%s) AND t.posted_on >= '2026-05-01' AND t.posted_on < '2026-06-01'
 GROUP BY 1, 2 ORDER BY 1, 2
"""


def may(**others: Any) -> dict[str, Any]:
    """Ask for a statement of May 2026."""
    asked = {"from_date": "2026-05-01", "to_date": "2026-05-31", "account_list": ACCOUNTS, "output_type": "csv"}
    return asked | others


@pytest.fixture(autouse=True)
def report_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the files of each test apart."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path


async def rows(pool: Pool, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Return what a statement gives."""
    async with pool.connection() as conn:
        found: list[tuple[Any, ...]] = await (await conn.execute(statement, parameters)).fetchall()
        return found


async def stored(pool: Pool) -> list[tuple[UUID, Any, Any]]:
    """Return the rows of e2e.test_command with the step that their payload names, in the order of the steps."""
    found = await rows(pool, "SELECT command_id, behavior, payload FROM e2e.test_command")
    steps = [step.value for step in StatementReportStep]
    return sorted(found, key=lambda row: steps.index(row[2]["process_step"]))


async def parked(pool: Pool) -> list[tuple[Any, ...]]:
    """Return id, type and error code of the commands that wait for an operator."""
    return await rows(
        pool,
        "SELECT command_id, c.command_type, t.error_code FROM commandbus.troubleshooting t"
        " JOIN commandbus.command c USING (command_id) ORDER BY c.created_at",
    )


async def until(pool: Pool, question: str, *parameters: Any) -> None:
    """Wait until the database says yes."""
    deadline = time.monotonic() + 30
    while await rows(pool, question, *parameters) != [(True,)]:
        assert time.monotonic() < deadline, question
        await asyncio.sleep(0.01)


def left_by(process: ProcessMetadata) -> tuple[Path, Path, Path]:
    """Return the files of a process, in the order of its steps; each of them must be there."""
    names = ("query_result_path", "aggregated_data_path", "rendered_file_path")
    query, aggregation, render = (Path(process.state[name]) for name in names)
    assert [path.is_file() for path in (query, aggregation, render)] == [True, True, True]
    return query, aggregation, render


def files_in(folder: Path) -> dict[str, bytes]:
    """Return name and content of each file."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def lines_of(path: Path) -> list[str]:
    """Return the lines of a text file."""
    return path.read_text().splitlines()


def rendered_text(path: Path) -> str:
    """Return what a reader of the page sees."""
    return PdfReader(path, strict=True).pages[0].extract_text() if path.suffix == ".pdf" else path.read_text()


# The state


days = st.dates(date(2020, 1, 1), date(2030, 1, 1))
behaviors = st.builds(
    CommandBehavior,
    fail_permanent_pct=st.floats(0, 100),
    fail_transient_times=st.integers(0, 5),
    min_duration_ms=st.integers(0, 10),
    max_duration_ms=st.integers(10, 20),
    error_code=st.none() | st.just("CODE"),
    response_data=st.none() | st.dictionaries(texts, st.integers() | st.none()),
)
paths = st.none() | st.text()


@given(
    span=st.tuples(days, days).map(sorted),
    account_list=st.lists(st.text(min_size=1), min_size=1),
    output_type=st.sampled_from(OutputType),
    left=st.tuples(paths, paths, paths),
    behavior=st.none() | st.builds(ProcessStepBehavior, query=behaviors, aggregation=st.none() | behaviors),
)
def test_a_state_survives_its_dict(
    span: list[date],
    account_list: list[str],
    output_type: OutputType,
    left: tuple[str | None, str | None, str | None],
    behavior: ProcessStepBehavior | None,
) -> None:
    """to_dict and from_dict lose nothing."""
    state = StatementReportState(span[0], span[1], account_list, output_type, *left, behavior=behavior)
    assert StatementReportState.from_dict(state.to_dict()) == state


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"from_date": "2026-06-01"}, "from_date 2026-06-01 is after to_date 2026-05-31"),
        ({"account_list": []}, "account_list is empty"),
        ({"output_type": "docx"}, "docx"),
        ({"from_date": "May"}, "May"),
        ({"behavior": {"print": {}}}, "print"),
        ({"behavior": {"render": {"fail_permanent_pct": 101}}}, "fail_permanent_pct"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(wrong: dict[str, Any], message: str) -> None:
    """The error says what is wrong with it."""
    with pytest.raises(ValueError, match=message):
        StatementReportState.from_dict(may(**wrong))


# What the steps do


@pytest.mark.parametrize("output_type", OutputType)
async def test_a_statement_has_the_totals_of_the_ledger(
    cb_process_batch: Any, cb_pool: Pool, report_dir: Path, output_type: OutputType
) -> None:
    """The totals equal those that SQL works out by itself, in a file of the type that was asked for."""
    batch = await cb_process_batch(StatementReportProcess, count=1, initial_data=may(output_type=output_type.value))
    await batch.complete()
    [process] = await batch.processes()
    *_, path = left_by(process)
    own = await rows(cb_pool, OWN_TOTALS, ACCOUNTS)
    assert len(own) == 10
    assert path.parent == report_dir
    assert path.suffix == f".{output_type}"
    if output_type is OutputType.CSV:
        lines = list(csv.reader(lines_of(path)))[1:]
        assert lines == [[account, category, str(count), money(cents)] for account, category, count, cents in own]
    else:
        text = rendered_text(path)
        assert [money(cents) for *_, cents in own if money(cents) not in text] == []
        assert money(sum(cents for *_, cents in own)) in text


async def test_each_step_passes_on_what_it_left(cb_process_batch: Any) -> None:
    """The state has the three files, which all exist, and each command says how much it found."""
    batch = await cb_process_batch(StatementReportProcess, count=1, initial_data=may())
    await batch.complete()
    [process] = await batch.processes()
    left = left_by(process)
    assert all(str(process.process_id) in path.name for path in left)
    assert len(lines_of(left[0])) == 1 + 12  # two accounts with six transactions


async def test_a_step_that_runs_again_leaves_the_same(cb_pool: Pool, report_dir: Path) -> None:
    """Every handler is run twice under one claim: same result, same files, nothing unfinished left."""
    seen: list[tuple[Any, dict[str, bytes]]] = []

    class Twice(Middleware):
        async def handle(self, context: HandlerContext, call_next: Callable[[], Awaitable[Any]]) -> Any:
            for _ in range(2):
                result = await call_next()
                seen.append((result, files_in(report_dir)))
            return result

    manager = StatementReportProcess(cb_pool)
    worker = Worker(
        cb_pool, domain="reporting", handler_registry=app.registry, processes=[manager], middleware=[Twice()]
    )
    process_id = await manager.start(may(output_type="pdf"))
    running = asyncio.create_task(worker.run())
    await until(cb_pool, "SELECT status = 'COMPLETED' FROM commandbus.process WHERE process_id = %s", process_id)
    await worker.stop()
    await running
    assert len(seen) == 6
    assert [first == second for first, second in zip(seen[::2], seen[1::2], strict=True)] == [True, True, True]
    assert len(seen[-1][1]) == 3


async def test_an_unknown_account_cancels_the_process(cb_process_batch: Any) -> None:
    """The business says no: there is nothing for an operator to mend."""
    batch = await cb_process_batch(
        StatementReportProcess, count=1, initial_data=may(account_list=["ACC-0001", "ACC-0201", "NONE"])
    )
    stats = await batch.wait()
    [process] = await batch.processes()
    assert (stats.canceled_count, process.status) == (1, ProcessStatus.CANCELED)
    assert process.error_code == "UNKNOWN_ACCOUNT"
    assert process.error_message == "the ledger has no account ACC-0201, NONE"


async def test_days_without_transactions_are_an_empty_statement(cb_process_batch: Any) -> None:
    """An account that is known but had none is no error."""
    early = may(from_date="2020-01-01", to_date="2020-01-31")
    batch = await cb_process_batch(StatementReportProcess, count=1, initial_data=early)
    await batch.complete()
    [process] = await batch.processes()
    assert lines_of(left_by(process)[2]) == ["account,category,transactions,amount"]


async def test_a_step_completed_without_its_file_parks_the_next(
    cb_process_batch: Any, cb_pool: Pool, cb_tsq: TroubleshootingQueue
) -> None:
    """An operator who completes the query by nothing is told so where the file is missed."""
    data = may(behavior={"query": {"fail_permanent_pct": 100, "error_code": "BROKEN"}})
    batch = await cb_process_batch(StatementReportProcess, count=1, initial_data=data)
    await batch.wait()
    [query] = await parked(cb_pool)
    assert query[1:] == ("StatementQuery", "BROKEN")
    await cb_tsq.operator_complete(query[0], {}, operator="ann", reason="it is mended")
    await batch.wait()
    [aggregation] = await parked(cb_pool)
    assert aggregation[1:] == ("StatementDataAggregation", "NO_INPUT")


# Behavior


async def test_without_behavior_nothing_is_stored_and_nothing_fails(cb_process_batch: Any, cb_pool: Pool) -> None:
    """Twenty processes: no row in e2e.test_command, one attempt each, and no trace of chaos in the trail."""
    batch = await cb_process_batch(StatementReportProcess, count=20, initial_data=may())
    stats = await batch.complete()
    assert stats.completed_count == 20
    assert await stored(cb_pool) == []
    events = await rows(
        cb_pool,
        """SELECT type, count(*), max(attempt), count(details->'chaos') FROM commandbus.event
            WHERE type NOT IN ('SENT', 'RECEIVED', 'RELEASED') GROUP BY 1""",
    )
    assert events == [("COMPLETED", 60, 1, 0)]  # and nothing that failed


async def test_the_behavior_of_a_step_is_stored_for_its_command(cb_process_batch: Any, cb_pool: Pool) -> None:
    """Only steps that have one get a row: the behavior as asked for, the payload with process and step."""
    render = {"min_duration_ms": 1, "max_duration_ms": 1, "response_data": {"printed": True}}
    data = may(behavior={"query": {}, "render": render})
    batch = await cb_process_batch(StatementReportProcess, count=3, initial_data=data)
    await batch.complete()
    found = await stored(cb_pool)
    assert [payload["process_step"] for _, _, payload in found] == ["StatementQuery"] * 3 + ["StatementRender"] * 3
    assert [behavior for _, behavior, _ in found] == [{}] * 3 + [render] * 3
    processes = {str(process.process_id) for process in await batch.processes()}
    assert {payload["process_id"] for _, _, payload in found} == processes
    commands = await rows(cb_pool, "SELECT command_id FROM commandbus.command WHERE step <> 'StatementDataAggregation'")
    assert {command_id for command_id, _, _ in found} == {command_id for (command_id,) in commands}
    results = await rows(cb_pool, "SELECT result->'printed' FROM commandbus.command WHERE step = 'StatementRender'")
    assert results == [(True,)] * 3


async def test_a_configured_failure_is_what_happens(cb_process_batch: Any, cb_pool: Pool) -> None:
    """The handler's behavior fails it with the code asked for, before it has done anything."""
    data = may(
        behavior={"aggregation": {"fail_permanent_pct": 100, "error_code": "DISK_FULL", "error_message": "full"}}
    )
    batch = await cb_process_batch(StatementReportProcess, count=5, initial_data=data)
    stats = await batch.wait()
    assert stats.in_troubleshooting_count == 5
    assert {row[1:] for row in await parked(cb_pool)} == {("StatementDataAggregation", "DISK_FULL")}
    [process, *_] = await batch.processes()
    assert process.state["aggregated_data_path"] is None
    [failure] = [entry for entry in await batch.timeline(process.process_id) if entry.event == "MOVED_TO_TSQ"]
    assert (failure.code, failure.message, failure.injected) == ("DISK_FULL", "full", True)


@pytest.mark.cb_clock
async def test_a_configured_number_of_failures_is_retried(cb_process_batch: Any) -> None:
    """The first two attempts fail, the third does the work; the process never notices."""
    data = may(behavior={"render": {"fail_transient_times": 2}})
    batch = await cb_process_batch(StatementReportProcess, count=2, initial_data=data)
    await batch.complete()
    for process in await batch.processes():
        events = [e.event for e in await batch.timeline(process.process_id) if e.step == "StatementRender"]
        assert events.count("RETRY_SCHEDULED") == 2
        assert events[-1] == "COMPLETED"
        assert left_by(process)


async def test_a_configured_duration_is_taken(cb_process_batch: Any, cb_pool: Pool) -> None:
    """The handler sleeps as long as its behavior says, and the trail tells."""
    data = may(behavior={"query": {"min_duration_ms": 120, "max_duration_ms": 120}})
    batch = await cb_process_batch(StatementReportProcess, count=1, initial_data=data)
    await batch.complete()
    [[details, took]] = await rows(
        cb_pool,
        """SELECT done.details, extract(epoch FROM done.ts - got.ts)::float8
             FROM commandbus.command c JOIN commandbus.event done USING (command_id)
             JOIN commandbus.event got USING (command_id)
            WHERE c.step = 'StatementQuery' AND done.type = 'COMPLETED' AND got.type = 'RECEIVED'""",
    )
    assert details == {"chaos": {"outcome": "success", "duration_ms": 120}}
    assert took >= 0.12


async def test_the_behavior_is_stored_with_the_command_or_not_at_all(cb_pool: Pool, cb_app: App) -> None:
    """A start that is rolled back leaves neither command nor behavior."""
    manager = StatementReportProcess(cb_pool)
    data = may(behavior={"query": {"fail_permanent_pct": 100}})
    async with cb_pool.connection() as conn, conn.transaction(force_rollback=True):
        await manager.start(data, conn=conn)
        inside = await (await conn.execute("SELECT count(*) FROM e2e.test_command")).fetchone()
    assert inside == (1,)
    assert await stored(cb_pool) == []
    assert await rows(cb_pool, "SELECT count(*) FROM commandbus.command") == [(0,)]


@pytest.mark.chaos(render={"fail_permanent_pct": 100, "error_code": "BY_MARKER"})
async def test_a_marker_and_a_behavior_roll_once(cb_process_batch: Any, cb_pool: Pool) -> None:
    """Under the chaos middleware the handlers roll no second time; a command's own behavior goes before the marker."""
    data = may(
        behavior={"query": {"fail_transient_times": 1}, "render": {"fail_permanent_pct": 100, "error_code": "OWN"}}
    )
    batch = await cb_process_batch(StatementReportProcess, count=2, initial_data=lambda i: data if i else may())
    await batch.wait()
    assert sorted(row[1:] for row in await parked(cb_pool)) == [
        ("StatementRender", "BY_MARKER"),
        ("StatementRender", "OWN"),
    ]
    retries = await rows(cb_pool, "SELECT count(*) FROM commandbus.event WHERE type = 'RETRY_SCHEDULED'")
    assert retries == [(1,)]


# TestCommand


async def test_a_test_command_does_what_its_behavior_says(
    cb_bus: CommandBus, cb_pool: Pool, cb_worker_pool: Any
) -> None:
    """One with a behavior fails by it, one without returns its data."""
    repository = TestCommandRepository()
    failing, plain = uuid4(), uuid4()
    async with cb_pool.connection() as conn, conn.transaction():
        behavior = CommandBehavior(fail_business_rule_pct=100, error_code="REFUSED")
        await repository.create(failing, behavior, {"n": 1}, conn=conn)
        for command_id in (failing, plain):
            await cb_bus.send(
                domain="test", command_type="TestCommand", command_id=command_id, data={"n": 1}, conn=conn
            )
    async with cb_worker_pool(workers=1):
        await until(cb_pool, "SELECT count(*) = 2 FROM commandbus.command WHERE completed_at IS NOT NULL")
    refused, done = await cb_bus.get_command(failing), await cb_bus.get_command(plain)
    assert (refused.status, refused.error_code) == (CommandStatus.FAILED, "REFUSED")
    assert (done.status, done.result) == (CommandStatus.COMPLETED, {"n": 1})


def test_the_ledger_helper_names_accounts() -> None:
    """Any index gives an account of the ledger."""
    assert [ledger.account_number(n) for n in (0, 199, 200)] == ["ACC-0001", "ACC-0200", "ACC-0001"]
