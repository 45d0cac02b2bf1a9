"""Whatever comes in at a public entry: a clear error, or a recorded outcome; never a hang, a loss or a dead worker."""

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commandbus import (
    BatchCommand,
    BusinessRuleError,
    CommandStatus,
    PermanentCommandError,
    SendRequest,
    TransientCommandError,
)
from commandbus.cli import main
from commandbus.errors import CommandBusError, InvalidNameError, InvalidPayloadError, MigrationError
from commandbus.migrate import read_migrations
from commandbus.sync import SyncCommandBus, connect
from tests.integration.worker_kit import Bench
from tests.json_values import any_texts, anything, objects, poisons

# Hypothesis sees random numbers that are drawn while it draws: here another thread's, the bus's for its jitter.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"
)

REFUSALS = (CommandBusError, TypeError, ValueError)
FULL_WIDTH = "\N{FULLWIDTH LATIN SMALL LETTER X}"
HOSTILE = [
    *["x; DROP TABLE t; --", "a-b", FULL_WIDTH, "x" * 63, "x" * 64, "", " ", "a\0b", "\ud800"],
    *["../x", "%s", "{}", "'", '"'],
]
names = st.sampled_from(HOSTILE) | any_texts | st.integers() | st.none() | st.binary(max_size=3)
numbers = st.integers() | st.floats() | st.booleans() | st.none() | any_texts | st.sampled_from([10**30, 10**5_000])
ENDS = ("COMPLETED", "FAILED", "IN_TROUBLESHOOTING_QUEUE")

shared_bus = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope="module")
def bus(migrated_dsn: str) -> Iterator[SyncCommandBus]:
    with connect(migrated_dsn, max_size=2) as bus:
        yield bus


def is_refused(call: Callable[[], Any]) -> bool:
    """Whether the call raised; then with words, of a kind that is documented."""
    try:
        call()
    except REFUSALS as error:
        return bool(str(error))
    return False


@settings(shared_bus, max_examples=150)
@given(
    domain=st.just("shop") | names,
    command_type=st.just("Ship") | names,
    command_id=st.uuids(version=4) | names,
    data=objects | anything | st.deferred(lambda: hopeless),
    correlation_id=st.none() | st.uuids() | names,
    reply_to=st.none() | names,
    max_attempts=st.none() | numbers,
)
def test_a_command_is_stored_as_sent_or_refused(bus: SyncCommandBus, **fields: Any) -> None:
    if not is_refused(lambda: bus.send(**fields)):
        stored = bus.get_command(fields["command_id"])
        assert stored.data == fields["data"]
        assert (stored.domain, stored.command_type) == (fields["domain"], fields["command_type"])
        assert (stored.reply_to, stored.correlation_id) == (fields["reply_to"], fields["correlation_id"])


@settings(shared_bus)
@given(st.lists(st.tuples(st.just("Ship") | names, objects | anything, st.none() | numbers), min_size=1, max_size=4))
def test_of_a_batch_all_is_stored_or_nothing(bus: SyncCommandBus, given_commands: list[tuple[Any, Any, Any]]) -> None:
    ids = [uuid4() for _ in given_commands]
    rows = [(ids[i], *given_commands[i]) for i in range(len(ids))]
    batch = [BatchCommand(kind, id_, data, max_attempts=most) for id_, kind, data, most in rows]
    requests = [SendRequest("shop", kind, uuid4(), data, max_attempts=most) for _, kind, data, most in rows]
    is_bad = is_refused(lambda: bus.create_batch("shop", batch))
    assert is_refused(lambda: bus.send_batch(requests)) == is_bad
    for command_id, request in zip(ids, requests, strict=True):
        for sent in (command_id, request.command_id):
            assert is_refused(lambda sent=sent: bus.get_command(sent)) == is_bad  # type: ignore[misc]


@settings(shared_bus, max_examples=60)
@given(names, names, numbers, st.none() | st.text() | st.dictionaries(any_texts, poisons, max_size=2))
def test_batches_and_questions_take_anything(
    bus: SyncCommandBus, domain: Any, name: Any, number: Any, data: Any
) -> None:
    is_refused(lambda: bus.create_process_batch(domain, number, name=name, custom_data=data))
    is_refused(lambda: bus.query_commands(domain=domain, command_type=name, limit=number, cursor=name))
    is_refused(lambda: bus.list_batches(domain, limit=number, cursor=name))
    is_refused(lambda: bus.get_command(name))
    is_refused(lambda: bus.get_audit_trail(name))
    is_refused(lambda: bus.get_batch(domain, name))
    is_refused(lambda: bus.cancel_batch(domain, name, operator=name, reason=name))


class Mute(Exception):
    """An error that cannot even be shown."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Odd(dict[str, Any]):
    """A dict whose content cannot be read."""

    def items(self) -> Any:
        raise RuntimeError("no items")


def deep(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"in": value}
    return value


def round_trip() -> dict[str, Any]:
    value: dict[str, Any] = {}
    value["self"] = value
    return value


hopeless = st.builds(deep, st.sampled_from([101, 1_000])) | st.builds(round_trip)  # as data, or as a result
texts = any_texts | st.just("\0" * 100_000) | st.just("é" * 700_000)
errors = st.one_of(
    st.builds(lambda kind, code, text: kind(code, text),
              st.sampled_from([TransientCommandError, PermanentCommandError, BusinessRuleError]), texts, texts),
    st.builds(lambda kind, value: kind(value),
              st.sampled_from([Exception, ValueError, KeyError, OSError, SystemExit, StopIteration]),
              anything | texts),
    st.builds(Mute),
    st.builds(lambda text: ExceptionGroup("several", [ValueError(text), Mute()]), any_texts),
    st.builds(asyncio.CancelledError),
)  # fmt: skip
results = st.one_of(
    objects,
    anything,
    st.dictionaries(any_texts, anything, max_size=3),
    st.sampled_from([{"big": "x" * 3_000_000}, {"digits": 10**5_000}, Odd(a=1)]),
    st.builds(deep, st.sampled_from([99, 100_000])),
    hopeless,
)


@pytest.mark.asyncio
async def test_whatever_a_handler_does_is_recorded(bench: Bench) -> None:
    """The worker is one and the same throughout: were it to die of one of them, none after it would end."""
    behaviors: dict[UUID, tuple[Any, Any]] = {}

    @bench.handler("Ship")
    async def ship(command: Any, context: Any) -> Any:
        end, details = behaviors[command.command_id]
        context.details.update({"note": details})
        if isinstance(end, BaseException):
            raise end
        return end

    @settings(shared_bus, max_examples=5)
    @given(st.lists(st.tuples(errors | results, anything), min_size=50, max_size=50))
    def generate(ends: list[tuple[Any, Any]]) -> None:
        behaviors.update({uuid4(): end for end in ends})

    generate()  # in this thread: Hypothesis takes it for the strategies' own doing when another one draws meanwhile
    for command_id in behaviors:
        await bench.send("Ship", command_id=command_id)
    async with bench.worker():
        for command_id in behaviors:
            command = await bench.until(command_id, *map(CommandStatus, ENDS))
            assert command.status == "COMPLETED" or command.error_code is not None
            await bench.bus.get_audit_trail(command_id)  # is readable
    assert len(behaviors) >= 50


HUGE = "x" * 2**26  # 64 MiB


@pytest.mark.asyncio
async def test_a_payload_of_64_mib_is_refused_and_a_result_of_it_is_recorded_without(bench: Bench) -> None:
    ends: list[Any] = [{"big": HUGE}, PermanentCommandError("HUGE", HUGE), {HUGE: 1}]

    @bench.handler("Ship")
    async def ship(command: Any, context: Any) -> Any:
        end = ends[command.data["end"]]
        if isinstance(end, Exception):
            raise end
        return end

    with pytest.raises(InvalidPayloadError, match="bytes of JSON, over the limit"):
        await bench.send("Ship", {"big": HUGE})
    async with bench.worker():
        sent = [await bench.send("Ship", {"end": number}) for number in range(len(ends))]
        ended = [await bench.until(command_id, *map(CommandStatus, ENDS)) for command_id in sent]
    assert [str(command.status) for command in ended] == ["COMPLETED", "IN_TROUBLESHOOTING_QUEUE", "COMPLETED"]
    assert all(len(f"{command.result} {command.error_message}") < 2**20 for command in ended)


words = st.one_of(
    st.sampled_from(
        ["status", "tsq", "list", "retry", "cancel", "batch", "show", "audit", "migrate", "prune", "worker"]
    ),
    st.sampled_from(
        ["--json", "--all", "--yes", "--domain", "--limit", "--cursor", "--older-than", "--batch", "--folder"]
    ),
    st.sampled_from(
        [
            "--moved-after",
            "infinity",
            "-infinity",
            "--role-prefix",
            "--dry-run",
            "--help",
            "shop:app",
            "1d",
            str(UUID(int=7)),
        ]
    ),
    any_texts.filter(lambda text: text not in ("-", "--")),
)
file_names = st.from_regex(r"(V[0-9]{0,3}_{1,2}[a-z]{0,3}|[a-z]*)\.sql", fullmatch=True)


@settings(shared_bus, max_examples=100)
@given(st.lists(words, max_size=5))
def test_the_command_line_tells_what_is_wrong(migrated_dsn: str, arguments: list[str]) -> None:
    result = CliRunner(env={"COMMANDBUS_DSN": migrated_dsn}).invoke(main, arguments)
    assert result.exit_code in {0, 1, 2}, (arguments, result.output)
    assert result.exception is None or isinstance(result.exception, SystemExit), (arguments, result.exception)


@settings(shared_bus)
@given(
    st.dictionaries(st.from_regex(r"(V[0-9]{0,3}_{1,2}[a-z]{0,3}|[a-z]*)\.sql", fullmatch=True), st.binary(max_size=9))
)
def test_a_folder_of_migrations_is_read_or_refused(files: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in files.items():
            (folder / file).write_bytes(content)
        with suppress(MigrationError):
            assert {migration.name for migration in read_migrations(folder)} == set(files)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", [n for n in HOSTILE if n not in ("a-b", "x" * 63)])
async def test_a_hostile_name_names_nothing(bench: Bench, name: str) -> None:
    with pytest.raises(InvalidNameError):
        bench.make_worker(domain=name)
    with pytest.raises(InvalidNameError):
        bench.registry.add(name, "Ship", lambda command, context: None)
    with pytest.raises(InvalidNameError):
        bench.registry.add(bench.domain, name, lambda command, context: None)
