"""What the log says: records of real workers carry the ids, an unexpected exception's traceback comes once."""

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from commandbus import BatchCommand, BusinessRuleError, PermanentCommandError, RetryPolicy, TransientCommandError
from commandbus.logging import FIELDS, CommandContextFilter, JsonFormatter, LogContext, in_one_line
from commandbus.models import CommandStatus
from pytest_commandbus.behavior import chaos_middleware
from tests.integration.process_kit import make_manager
from tests.integration.worker_kit import Bench, eventually

pytestmark = pytest.mark.asyncio

_OUTCOMES = "commandbus.worker.outcome_log"


class Kept(logging.Handler):
    """Keeps the records that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def about(self, command_id: Any, logger: str = _OUTCOMES) -> list[logging.LogRecord]:
        """The records of a logger that carry this command's id."""
        return [r for r in self.records if r.name == logger and getattr(r, "command_id", None) == str(command_id)]


@pytest.fixture
def kept() -> Iterator[Kept]:
    """What is logged while the test runs, from DEBUG on."""
    root, ours, handler = logging.getLogger(), logging.getLogger("commandbus"), Kept()
    before = root.level, ours.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    ours.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(before[0])
    ours.setLevel(before[1])


async def until_told(kept: Kept, command_id: Any, count: int = 1) -> list[logging.LogRecord]:
    async def look() -> list[logging.LogRecord] | None:
        found = kept.about(command_id)
        return found if len(found) >= count else None

    return await eventually(look, f"{count} records about {command_id}")


@pytest.mark.parametrize(
    ("error", "level", "event", "has_traceback"),
    [
        (None, logging.DEBUG, "COMPLETED", False),
        (BusinessRuleError("NO_CREDIT", "not today"), logging.INFO, "BUSINESS_RULE_FAILED", False),
        (TransientCommandError("BUSY", "later"), logging.INFO, "RETRY_SCHEDULED", False),
        (ZeroDivisionError("division by zero"), logging.WARNING, "RETRY_SCHEDULED", True),
        (PermanentCommandError("BROKEN", "mend me"), logging.ERROR, "MOVED_TO_TSQ", False),
    ],
)
async def test_each_outcome_is_one_record_with_the_ids(
    bench: Bench, kept: Kept, error: Exception | None, level: int, event: str, has_traceback: bool
) -> None:
    @bench.handler("Order")
    async def order(command: Any, context: Any) -> None:
        if error is not None:
            raise error

    correlation_id = uuid4()
    policy = RetryPolicy(max_attempts=3, backoff_schedule=[3_600])
    async with bench.worker(retry_policy=policy) as worker:
        command_id = await bench.send("Order", correlation_id=correlation_id)
        (record,) = await until_told(kept, command_id)
    assert (record.levelno, record.event) == (level, event)  # type: ignore[attr-defined]
    assert (record.exc_info is not None) == has_traceback
    facts = vars(record)
    assert {name: facts.get(name) for name in FIELDS} == {
        "domain": bench.domain,
        "command_id": str(command_id),
        "command_type": "Order",
        "correlation_id": str(correlation_id),
        "batch_id": None,
        "process_id": None,
        "process_type": None,
        "step": None,
        "worker_id": worker.worker_id,
        "epoch": 1,
        "attempt": 1,
    }
    assert facts["max_attempts"] == 3
    assert facts["seconds"] >= 0
    assert facts.get("error_code") == (None if error is None else getattr(error, "code", "UNHANDLED_EXCEPTION"))
    assert str(command_id) in record.getMessage()
    if isinstance(error, TransientCommandError):
        assert facts["delay"] == 3_600
        assert record.getMessage().endswith("attempt 1 of 3 failed, again in 3600 s, BUSY: later")


async def test_an_unexpected_exception_has_one_traceback_for_each_attempt(bench: Bench, kept: Kept) -> None:
    @bench.handler("Odd")
    async def odd(command: Any, context: Any) -> None:
        raise LookupError("no such thing")

    async with bench.worker():
        command_id = await bench.send("Odd")
        records = await until_told(kept, command_id, 3)
    assert [(r.levelno, r.attempt) for r in records] == [  # type: ignore[attr-defined]
        (logging.WARNING, 1),
        (logging.WARNING, 2),
        (logging.ERROR, 3),
    ]
    told = [r for r in kept.records if r.exc_info and r.exc_info[0] is LookupError]
    assert told == records
    assert 'raise LookupError("no such thing")' in logging.Formatter().format(records[0])


async def test_records_about_a_process_and_a_batch_say_so(bench: Bench, kept: Kept) -> None:
    @bench.handler("Reserve")
    async def reserve(command: Any, context: Any) -> None:
        raise PermanentCommandError("BROKEN")

    manager = make_manager(bench)
    batch_id = await bench.bus.create_process_batch(bench.domain, 1)
    async with bench.worker(processes=[manager]):
        process_id = await manager.start({"order": 1, "path": ["Reserve"]}, batch_id=batch_id)

        async def look() -> logging.LogRecord | None:
            return next((r for r in kept.records if getattr(r, "process_id", None) == str(process_id)), None)

        record = vars(await eventually(look, "a record about the process"))
        command_id = uuid4()
        own_batch = await bench.bus.create_batch(bench.domain, [BatchCommand("Reserve", command_id, {})])
        (of_batch,) = await until_told(kept, command_id)
    assert (record["batch_id"], record["process_type"], record["step"]) == (
        str(batch_id),
        manager.process_type,
        "Reserve",
    )
    assert vars(of_batch)["batch_id"] == str(own_batch)


async def test_a_late_outcome_is_told_with_its_ids(bench: Bench, kept: Kept) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    @bench.handler("Slow")
    async def slow(command: Any, context: Any) -> None:
        if context.epoch == 1:
            started.set()
            await go_on.wait()

    async with bench.worker(visibility_timeout=60, concurrency=1) as worker:  # has no room to claim it again
        command_id = await bench.send("Slow")
        await started.wait()
        await bench.skip(61)
        async with bench.worker():
            await bench.until(command_id)
        go_on.set()

        async def look() -> logging.LogRecord | None:
            return next((r for r in kept.about(command_id) if vars(r)["worker_id"] == worker.worker_id), None)

        record = await eventually(look, "a record of the late outcome")
    assert (record.levelno, vars(record)["event"]) == (logging.WARNING, "LATE_OUTCOME_DROPPED")
    assert (vars(record)["epoch"], worker.counts.dropped) == (1, 1)


async def test_a_worker_tells_when_it_starts_and_ends(bench: Bench, kept: Kept) -> None:
    async with bench.worker(concurrency=7) as worker:
        pass
    told = [r for r in kept.records if r.name == "commandbus.worker.worker"]
    assert [r.getMessage() for r in told] == [
        f"worker {worker.worker_id} started: domain {bench.domain}, 7 at once",
        f"worker {worker.worker_id} ended: claimed 0, completed 0, failed 0, retried 0, parked 0",
    ]
    assert [(r.levelno, vars(r)["worker_id"], vars(r)["domain"]) for r in told] == [
        (logging.INFO, worker.worker_id, bench.domain)
    ] * 2


async def test_commands_whose_last_lease_was_lost_are_told(bench: Bench, kept: Kept) -> None:
    command_id = await bench.send("Gone", max_attempts=1)
    await bench.execute("SELECT commandbus.claim(%s, 0, 1, interval '1 second', 1, 0)", bench.domain)
    await bench.skip(2)
    async with bench.worker() as worker:
        await bench.until(command_id, CommandStatus.IN_TROUBLESHOOTING_QUEUE)

        async def look() -> logging.LogRecord | None:
            return next((r for r in kept.records if r.name == "commandbus.worker.upkeep"), None)

        record = await eventually(look, "a record of the sweep")
    assert (record.levelno, vars(record)["worker_id"]) == (logging.ERROR, worker.worker_id)
    assert record.getMessage() == "parked for an operator: 1 commands that lost their last lease"


async def test_a_handlers_own_lines_carry_the_commands_ids(bench: Bench, kept: Kept) -> None:
    kept.addFilter(CommandContextFilter())
    own = logging.getLogger("shop")

    async def helper() -> None:
        own.info("from a task")

    @bench.handler("Async")
    async def in_the_loop(command: Any, context: Any) -> None:
        own.info("from the handler")
        await asyncio.create_task(helper())

    @bench.handler("Plain")
    def in_a_thread(command: Any, context: Any) -> None:
        own.info("from a thread")

    async with bench.worker(middleware=[LogContext()], concurrency=1) as worker:
        first, second = await bench.send("Async"), await bench.send("Plain")
        await bench.until(first)
        await bench.until(second)
    own.info("from nobody")
    told = {r.getMessage(): (r.command_id, r.command_type, r.worker_id) for r in kept.records if r.name == "shop"}  # type: ignore[attr-defined]
    assert told == {
        "from the handler": (str(first), "Async", worker.worker_id),
        "from a task": (str(first), "Async", worker.worker_id),
        "from a thread": (str(second), "Plain", worker.worker_id),
        "from nobody": (None, None, None),
    }
    assert all(hasattr(record, name) for record in kept.records for name in FIELDS)


async def test_what_a_record_says_of_itself_stays(kept: Kept) -> None:
    kept.addFilter(CommandContextFilter())
    logging.getLogger("shop").info("about another", extra={"command_id": "other", "domain": "theirs"})
    (record,) = [r for r in kept.records if r.name == "shop"]
    assert {name: vars(record)[name] for name in ("command_id", "domain", "step")} == {
        "command_id": "other",
        "domain": "theirs",
        "step": None,
    }


async def test_a_json_line_has_the_fields_and_the_traceback(bench: Bench, kept: Kept) -> None:
    @bench.handler("Odd")
    async def odd(command: Any, context: Any) -> None:
        raise LookupError("line one\nline two")

    async with bench.worker(retry_policy=RetryPolicy(max_attempts=1)):
        command_id = await bench.send("Odd")
        (record,) = await until_told(kept, command_id)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert line["level"] == "ERROR"
    assert line["message"].endswith("parked for an operator, UNHANDLED_EXCEPTION: LookupError: line one line two")
    assert (line["command_id"], line["event"], line["domain"]) == (str(command_id), "MOVED_TO_TSQ", bench.domain)
    assert line["time"].endswith("+00:00")
    assert 'raise LookupError("line one\\nline two")' in line["exception"]
    assert "batch_id" not in line


async def test_nobodys_text_moves_a_terminal_or_fakes_a_line() -> None:
    assert in_one_line("a\nERROR b\r\n\x1b[2Jc\u202e") == "a ERROR b \\x1b[2Jc\\u202e"
    assert len(in_one_line("x" * 10_000)) == 500


async def test_a_traceback_that_no_file_could_take_is_made_harmless(bench: Bench, kept: Kept) -> None:
    @bench.handler("Odd")
    async def odd(command: Any, context: Any) -> None:
        raise LookupError("half a pair \ud800 " + "x" * 100_000)

    async with bench.worker(retry_policy=RetryPolicy(max_attempts=1)):
        command_id = await bench.send("Odd")
        (record,) = await until_told(kept, command_id)
    for formatter in (logging.Formatter(), JsonFormatter()):
        text = formatter.format(record)
        assert len(text.encode()) < 50_000
        assert "Traceback (most recent call last)" in text
        assert "half a pair" in text


async def test_a_process_that_its_managers_code_failed_is_told_once_with_the_traceback(
    bench: Bench, kept: Kept
) -> None:
    def get_next_step(self: Any, current_step: Any, response: Any, state: Any) -> Any:
        raise LookupError("no step after this")

    bench.handler("Reserve")(lambda command, context: None)
    manager = make_manager(bench, get_next_step=get_next_step)
    async with bench.worker(processes=[manager]):
        process_id = await manager.start({"order": 1, "path": ["Reserve"]})

        async def look() -> logging.LogRecord | None:
            return next((r for r in kept.records if r.name == "commandbus.process.advance"), None)

        record = await eventually(look, "a record of the process")
    facts = vars(record)
    assert (record.levelno, facts["process_id"], facts["process_type"], facts["step"], facts["error_code"]) == (
        logging.ERROR,
        str(process_id),
        manager.process_type,
        "Reserve",
        "PROCESS_DECISION_FAILED",
    )
    assert record.getMessage().endswith("failed: get_next_step raised LookupError: no step after this")
    assert [r for r in kept.records if r.exc_info and r.exc_info[0] is LookupError] == [record]


@pytest.mark.parametrize(
    ("rolled", "level", "told"),
    [
        ("permanent", logging.DEBUG, [logging.DEBUG]),
        ("permanent", logging.INFO, []),
        ("success", logging.INFO, [logging.ERROR]),
        (None, logging.INFO, [logging.ERROR]),
    ],
)
async def test_what_chaos_injected_is_told_at_debug_only(
    bench: Bench, kept: Kept, rolled: str | None, level: int, told: list[int]
) -> None:
    @bench.handler("Order")
    async def order(command: Any, context: Any) -> None:
        if rolled is not None:
            context.details["chaos"] = {"outcome": rolled, "duration_ms": 1}
        raise PermanentCommandError("BROKEN")

    logging.getLogger("commandbus").setLevel(level)
    chaos_middleware(bench.pool)
    async with bench.worker():
        command_id = await bench.send("Order")
        await bench.until(command_id, CommandStatus.IN_TROUBLESHOOTING_QUEUE)
    assert [record.levelno for record in kept.about(command_id)] == told
