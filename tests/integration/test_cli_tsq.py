"""`commandbus tsq`: what it prints, what it changes, when it asks, how it ends."""

import getpass
import json
import os
import pty
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from psycopg_pool import AsyncConnectionPool

from commandbus import BatchCommand, PermanentCommandError, migrate
from tests.integration.cli_kit import Ended, command_line, refused, run
from tests.integration.process_kit import Hand, OrderProcess, open_hand, operators, process_of
from tests.integration.tsq_kit import BROKEN, items, operated, park, parked_of, until_blocking
from tests.integration.worker_kit import Bench, eventually

pytestmark = pytest.mark.asyncio

ROOT = Path(__file__).resolve().parents[2]
APP = """
from commandbus import App
from tests.integration.process_kit import OrderProcess

app = App()
app.add_process(OrderProcess)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an application that manages orders, whose user is ann."""
    (tmp_path / "shop.py").write_text(APP)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("LOGNAME", "ann")
    return tmp_path


@pytest_asyncio.fixture
async def bench(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """The domain of orders in a database of its own, which the command line finds by itself."""
    migrate(empty_dsn)
    monkeypatch.setenv("COMMANDBUS_DSN", empty_dsn)
    async with AsyncConnectionPool(empty_dsn, min_size=1, max_size=5, open=False) as pool:
        yield Bench(empty_dsn, pool, domain="orders")


@pytest_asyncio.fixture
async def hand(bench: Bench) -> AsyncIterator[Hand]:
    """A worker of the domain, moved by hand."""
    async with open_hand(bench, OrderProcess(bench.pool)) as hand:
        yield hand


def done(result: Ended) -> str:
    """It went well, and this is what it printed."""
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def started(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """A command that runs on its own."""
    return subprocess.Popen(
        command_line(*arguments), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def answered(folder: Path, answer: str, *arguments: str) -> tuple[int, str, str]:
    """Run a command with a terminal to ask at; returns its exit code, its output, and what it asked."""
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
            command_line(*arguments),
            cwd=folder,
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            os.write(ours, f"{answer}\n".encode())
            output, errors = process.communicate(timeout=60)
            return process.returncode, output, errors
    finally:
        os.close(ours)
        os.close(theirs)


async def test_list_shows_the_parked_in_pages(bench: Bench, hand: Hand, folder: Path) -> None:
    assert done(run(folder, "tsq", "list")) == "nothing is parked\n"
    parked = sorted(await park(bench, hand, 3))
    lines = done(run(folder, "tsq", "list", "--limit", "2")).splitlines()
    assert lines[0].split() == [
        "COMMAND_ID", "DOMAIN", "COMMAND_TYPE", "ATTEMPTS", "ERROR_CODE", "ERROR_MESSAGE", "MOVED_AT",
    ]  # fmt: skip
    assert [line.split()[:6] for line in lines[1:3]] == [
        [str(command_id), "orders", "Reserve", "1", "BROKEN", "out"] for command_id in parked[:2]
    ]
    assert lines[-1].startswith("2 of 3 parked; next: --cursor ")
    cursor = lines[-1].split()[-1]
    rest = done(run(folder, "tsq", "list", "--limit", "2", "--cursor", cursor))
    assert str(parked[2]) in rest
    assert rest.endswith("\n1 of 3 parked\n")
    assert done(run(folder, "tsq", "list", "--domain", "billing")) == "nothing is parked that this finds\n"


async def test_list_in_json_is_whole_and_tells_the_next_page(bench: Bench, hand: Hand, folder: Path) -> None:
    parked = sorted(await park(bench, hand, 3))
    first = json.loads(done(run(folder, "tsq", "list", "--json", "--limit", "2")))
    assert [item["command_id"] for item in first["items"]] == [str(command_id) for command_id in parked[:2]]
    assert (first["items"][0]["data"].keys(), first["items"][0]["total_attempts"]) == ({"n"}, 1)
    last = json.loads(done(run(folder, "tsq", "list", "--json", "--cursor", first["next_cursor"])))
    assert ([item["command_id"] for item in last["items"]], last["next_cursor"]) == ([str(parked[2])], None)


async def test_filters_of_the_command_line(bench: Bench, hand: Hand, folder: Path) -> None:
    batch_id = await bench.bus.create_process_batch("orders", 1)
    await OrderProcess(bench.pool).start({}, batch_id=batch_id)
    in_batch = (await hand.turn(BROKEN)).command_id
    (odd,) = await park(bench, hand, 1, "Pay", PermanentCommandError("NO_ACCOUNT"))
    (moved,) = [item.moved_at.isoformat() for item in await items(operators(bench), bench) if item.command_id == odd]

    def found(*arguments: str) -> set[UUID]:
        listed = json.loads(done(run(folder, "tsq", "list", "--json", *arguments)))
        return {UUID(item["command_id"]) for item in listed["items"]}

    assert found("--domain", "orders") == {in_batch, odd}
    assert found("--type", "Pay") == {odd}
    assert found("--error-code", "NO_ACCOUNT") == {odd}
    assert found("--batch", str(batch_id)) == {in_batch}
    assert found("--moved-after", moved) == {odd}
    assert found("--moved-before", moved) == {in_batch}
    assert found("--moved-after", "2999-12-31T23:59") == set()


async def test_show_tells_one_with_its_trail(bench: Bench, hand: Hand, folder: Path) -> None:
    (command_id,) = await park(bench, hand)
    lines = done(run(folder, "tsq", "show", str(command_id))).splitlines()
    told = dict(line.split(":", 1) for line in lines[: lines.index("")])
    assert told["data"].strip() == '{"n": 0}'
    assert told["error_message"].strip() == "out of order"
    assert [line.split()[1] for line in lines[lines.index("") + 2 :]] == ["SENT", "RECEIVED", "MOVED_TO_TSQ"]
    record = json.loads(done(run(folder, "tsq", "show", str(command_id), "--json")))
    assert (record["command_id"], record["data"]) == (str(command_id), {"n": 0})
    assert [event["event_type"] for event in record["events"]] == ["SENT", "RECEIVED", "MOVED_TO_TSQ"]
    await operators(bench).operator_cancel(command_id)
    refused(run(folder, "tsq", "show", str(command_id)), 1, f"command {command_id} is CANCELED; only one in the")
    refused(run(folder, "tsq", "show", str(unknown := uuid4())), 1, f"no command has the id {unknown}")


async def test_ids_are_acted_on_without_a_question(bench: Bench, hand: Hand, folder: Path) -> None:
    first, second, third = await park(bench, hand, 3)
    assert done(run(folder, "tsq", "retry", str(first), str(second))) == "retried 2 parked commands\n"
    assert done(run(folder, "tsq", "cancel", str(third), "--operator", "bob", "--reason", "twice")) == (
        "cancelled 1 parked command\n"
    )
    assert await operated(bench, first) == [("OPERATOR_RETRY", getpass.getuser())] == [("OPERATOR_RETRY", "ann")]
    event = (await bench.bus.get_audit_trail(third))[-1]
    assert (event.event_type, event.details) == ("OPERATOR_CANCEL", {"operator": "bob", "reason": "twice"})


async def test_ids_that_are_not_parked_are_told_and_the_others_are_done(bench: Bench, hand: Hand, folder: Path) -> None:
    (parked,) = await park(bench, hand)
    waiting, unknown = await bench.send("Reserve"), uuid4()
    ids = [str(command_id) for command_id in (waiting, parked, unknown)]
    result = run(folder, "tsq", "complete", *ids)
    assert (result.returncode, result.stdout) == (1, "completed 1 parked command\n")
    assert result.stderr.splitlines() == [
        f"no command has the id {unknown}; it may be of another database (--dsn), or pruned",
        f"command {waiting} is PENDING, not in the troubleshooting queue",
    ]
    result = run(folder, "tsq", "retry", *ids, "--json")
    assert result.returncode == 1
    assert json.loads(result.stdout) == {
        "done": 0,
        "not_found": [str(unknown)],
        "wrong_state": {str(waiting): "PENDING", str(parked): "COMPLETED"},
    }


async def test_an_app_advances_its_processes_at_once(bench: Bench, hand: Hand, folder: Path) -> None:
    manager = OrderProcess(bench.pool)
    here, elsewhere = await manager.start({}), await manager.start({})
    for _ in range(2):
        await hand.turn(BROKEN)
    (parked_here,), (parked_elsewhere,) = await parked_of(bench, [here]), await parked_of(bench, [elsewhere])
    result = '{"parcel": "P7"}'
    done(run(folder, "tsq", "complete", str(parked_here), "--result", result, "--app", "shop:app"))
    done(run(folder, "tsq", "complete", str(parked_elsewhere), "--result", result))
    process = await process_of(bench, here)
    assert (process.current_step, process.state["results"]) == ("Pay", [{"parcel": "P7"}])
    assert (await process_of(bench, elsewhere)).current_step == "Reserve"
    statement = "SELECT reply_to, result FROM commandbus.reply"
    assert await bench.execute(statement) == [("process:Order", {"parcel": "P7"})]


async def test_many_are_changed_only_when_somebody_says_yes(bench: Bench, hand: Hand, folder: Path) -> None:
    await park(bench, hand, 3)
    (other,) = await park(bench, hand, 1, "Pay")
    refused(run(folder, "tsq", "retry", "--all"), 2, "nobody can be asked here: pass --yes")
    code, output, asked = answered(folder, "n", "tsq", "cancel", "--type", "Reserve")
    assert (code, output) == (1, "")
    assert "Cancel 3 parked commands? [y/N]" in asked
    assert await operators(bench).count_troubleshooting() == 4
    code, output, _ = answered(folder, "y", "tsq", "cancel", "--type", "Reserve", "--json")
    assert (code, json.loads(output)) == (0, {"done": 3, "not_found": [], "wrong_state": {}})
    code, output, asked = answered(folder, "", "tsq", "retry", "--type", "Reserve")
    assert (code, output, asked) == (0, "retried 0 parked commands\n", "")
    assert done(run(folder, "tsq", "retry", "--all", "--yes")) == "retried 1 parked command\n"
    assert await operated(bench, other) == [("OPERATOR_RETRY", "ann")]


async def test_one_that_is_broken_off_tells_how_far_it_came(bench: Bench, hand: Hand, folder: Path) -> None:
    count = 600  # two chunks
    await bench.bus.create_batch("orders", [BatchCommand("Reserve", uuid4(), {}) for _ in range(count)])
    await hand.settle(*[(claimed, BROKEN) for claimed in await hand.claim(count)])
    page = await operators(bench).list_troubleshooting(limit=1_000)
    async with bench.pool.connection() as holder:
        statement = "SELECT FROM commandbus.troubleshooting WHERE command_id = %s FOR UPDATE"
        await holder.execute(statement, [page.items[-1].command_id])
        process = started(folder, "tsq", "retry", "--all", "--yes")
        await until_blocking(bench, holder.info.backend_pid)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (128 + signal.SIGINT, "")
    assert errors.splitlines() == [
        "retried 500 parked commands before it was broken off; ask again",
        "stopped by SIGINT",
    ]
    assert await operators(bench).count_troubleshooting() == 100

    async def nobody_waits() -> bool | None:
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return (await bench.execute(waiting))[0][0] == 0 or None

    await eventually(nobody_waits, "the statement on the server to end too")
    assert done(run(folder, "tsq", "retry", "--all", "--yes")) == "retried 100 parked commands\n"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["retry"], ["by their IDs", "--all: by one of the three"]),
        (["retry", "--all", "--domain", "orders", "--yes"], ["by one of the three"]),
        (["cancel", str(uuid4()), "--type", "Reserve"], ["by one of the three"]),
        (["complete", str(uuid4()), "--result", "{"], ["--result is no JSON"]),
        (["complete", str(uuid4()), "--result", "[1]"], ["result: a JSON object"]),
        (["complete", str(uuid4()), "--result", '{"n": NaN}'], ["result.n: NaN is not JSON"]),
        (["retry", "--domain", "no such", "--yes"], ["domain 'no such' is no valid name"]),
        (["retry", "--moved-after", "yesterday", "--yes"], ["--moved-after: 'yesterday' is no time", "2026-01-31T"]),
        (["list", "--cursor", "2"], ["'2' is no cursor", "next_cursor"]),
        (["cancel", str(uuid4()), "--app", "shop:nope"], ["shop.py has no 'nope'"]),
    ],
)
@pytest.mark.usefixtures("bench")
async def test_what_is_asked_wrongly_is_told(folder: Path, arguments: list[str], parts: list[str]) -> None:
    refused(run(folder, "tsq", *arguments), 2, *parts)


async def test_a_database_that_is_away_is_told(folder: Path) -> None:
    for arguments in (["list"], ["retry", "--all", "--yes"], ["show", str(uuid4())]):
        refused(run(folder, "tsq", *arguments, "--dsn", "host=127.0.0.1 port=1"), 1, "cannot connect", "port=1")


@pytest.mark.parametrize("command", [[], ["list"], ["show"], ["retry"], ["cancel"], ["complete"]])
async def test_help_says_what_each_does(folder: Path, command: list[str]) -> None:
    result = run(folder, "tsq", *command, "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(" ".join(["Usage: commandbus tsq", *command]))
