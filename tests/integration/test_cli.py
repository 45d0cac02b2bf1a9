"""The command line: what it prints, how it ends, what a signal does."""

import os
import signal
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner
from psycopg.conninfo import make_conninfo

from commandbus import migrate
from commandbus.cli import main
from tests.integration.cli_kit import (
    begun,
    refused,
    run,
    run_process,
    send,
    status,
    wait_until_done,
    worker,
    write_shop,
)
from tests.integration.servers import Server

pytestmark = pytest.mark.usefixtures("measured")

AN_ID = "0190163d-8694-739b-aea5-966c26f8ad91"
ASKING = [  # that ask the database something and end
    ["status"],
    ["tsq", "list"],
    ["tsq", "show", AN_ID],
    ["tsq", "retry", AN_ID],
    ["tsq", "cancel", AN_ID],
    ["tsq", "complete", AN_ID],
    ["batch", "list"],
    ["batch", "show", AN_ID],
    ["batch", "cancel", AN_ID],
    ["audit"],
    ["audit", AN_ID],
    ["prune", "--older-than", "30d"],
]


@pytest.fixture(scope="module")
def unmigrated(postgres_server: Server) -> str:
    """A database without our schema, for tests that leave it so."""
    return postgres_server.create("unmigrated")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an application in shop.py."""
    return write_shop(tmp_path)


@pytest.fixture
def database(empty_dsn: str) -> str:
    migrate(empty_dsn)
    return empty_dsn


def test_a_worker_works_for_every_domain_from_the_folder_it_was_started_in(folder: Path, database: str) -> None:
    with worker(folder, database) as running:
        assert running.ready.startswith("worker ready: shop:app, domains: billing, orders; ")
        where, slow = send(database, "billing", "Where"), send(database, "orders", "Slow", {"seconds": 0})
        wait_until_done(database, where, slow)
        assert running.end(signal.SIGTERM)[0] == 0
    assert status(database, where) == ("COMPLETED", {"folder": str(folder.resolve())})


def test_a_worker_can_be_kept_to_one_domain(folder: Path, database: str) -> None:
    with worker(folder, database, "--domain", "billing", "--no-listen", "--poll-interval", "0.05") as running:
        assert "domains: billing;" in running.ready
        other, own = send(database, "orders", "Slow", {"seconds": 0}), send(database, "billing", "Where")
        wait_until_done(database, own)
        assert running.end(signal.SIGINT)[0] == 0
    assert status(database, other) == ("PENDING", None)


def test_middleware_is_made_with_the_pool_and_used(folder: Path, database: str) -> None:
    with worker(folder, database, "--middleware", "shop:tagging") as running:
        command_id = send(database, "orders", "Slow", {"seconds": 0})
        wait_until_done(database, command_id)
        assert running.end(signal.SIGTERM)[0] == 0
    assert status(database, command_id) == ("COMPLETED", {"slept": 0, "tagged": True})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_handlers_end(folder: Path, database: str, number: signal.Signals) -> None:
    with worker(folder, database, "--concurrency", "1") as running:
        command_id = send(database, "orders", "Slow", {"seconds": 0.5})
        assert running.line() == f"started {command_id}\n"
        unstarted = send(database, "orders", "Slow", {"seconds": 0})
        exit_code, errors = running.end(number)
    assert (exit_code, "Traceback" in errors) == (0, False)
    assert f"{number.name}: stopping" in errors
    assert status(database, command_id) == ("COMPLETED", {"slept": 0.5})
    assert status(database, unstarted) == ("PENDING", None)


def test_a_second_signal_ends_it_at_once(folder: Path, database: str) -> None:
    with worker(folder, database) as running:
        command_id = send(database, "orders", "Slow", {"seconds": 1_000})
        assert running.line() == f"started {command_id}\n"
        running.process.send_signal(signal.SIGTERM)
        assert "stopping" in running.error_line()
        exit_code, errors = running.end(signal.SIGTERM)
    assert exit_code == 128 + signal.SIGTERM
    assert "ending at once" in errors
    assert status(database, command_id) == ("IN_PROGRESS", None)  # until its lease has run out


def test_a_worker_that_dies_shows_why_and_fails(folder: Path, database: str) -> None:
    with worker(folder, database) as running:
        with psycopg.connect(database) as conn:
            conn.execute("ALTER FUNCTION commandbus.claim RENAME TO claim_gone")
        exit_code, errors = running.end()
    assert exit_code == 1
    assert "Traceback" in errors
    assert "a worker died: UndefinedFunction" in errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("application", "parts"),
    [
        ("shop", ["'shop' is not MODULE:APP", "shop.main:app"]),
        ("shop:", ["is not MODULE:APP"]),
        ("nowhere:app", ["no module 'nowhere'", "PYTHONPATH"]),
        ("nowhere.deep:app", ["no module 'nowhere'"]),
        ("shop:nope", ["shop.py has no 'nope'"]),
        ("shop:app.nope", ["shop.py has no 'app.nope'"]),
        ("shop:slow", ["function, not commandbus.App"]),
        ("shop:empty", ["no handler and no process", "@app.handler"]),
        ("broken:app", ["importing 'broken:app' failed at", "JSONDecodeError"]),
        ("wants:app", ["wants.py, line 1", "no_such_dependency"]),
        ("typo:app", ["typo.py, line 1", "SyntaxError"]),
    ],
)
def test_an_application_that_cannot_be_loaded_is_told(
    folder: Path, migrated_dsn: str, application: str, parts: list[str]
) -> None:
    refused(run(folder, "worker", application, "--dsn", migrated_dsn), 2, *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--domain", "shipping"], ["--domain shipping", "billing, orders"]),
        (
            ["--pool-size", "4"],
            ["--pool-size 4", "2 worker(s)", "keep 2 connections each, which is 4", "give 5 or more"],
        ),
        (["--middleware", "shop:nope"], ["shop.py has no 'nope'"]),
        (["--middleware", "shop:APP"], ["shop.py has no 'APP'"]),
        (["--middleware", "shop:app"], ["--middleware shop:app", "not callable", "factory(pool)"]),
        (["--middleware", "shop:broken"], ["--middleware shop:broken", "no tracer here"]),
        (["--middleware", "shop:nothing"], ["returned a NoneType"]),
    ],
)
def test_options_that_do_not_fit_are_told(
    folder: Path, migrated_dsn: str, arguments: list[str], parts: list[str]
) -> None:
    refused(run(folder, "worker", "shop:app", "--dsn", migrated_dsn, *arguments), 2, *parts)


def test_an_unmigrated_database_is_told(folder: Path, empty_dsn: str) -> None:
    for command in ["worker", "shop:app"], ["audit"]:
        refused(run(folder, *command, COMMANDBUS_DSN=empty_dsn), 1, "no commandbus schema", "commandbus migrate")


@pytest.mark.parametrize("command", ASKING, ids=" ".join)
def test_every_command_tells_that_the_database_is_not_migrated(unmigrated: str, command: list[str]) -> None:
    result = CliRunner().invoke(main, [*command, "--dsn", unmigrated])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1, result.output
    assert "no commandbus schema" in result.output
    assert "commandbus migrate" in result.output


@pytest.mark.parametrize("command", [["migrate"], *ASKING], ids=" ".join)
def test_every_command_tells_that_the_database_is_away(command: list[str]) -> None:
    result = CliRunner().invoke(main, [*command, "--dsn", "postgresql://me:s3cret@127.0.0.1:1/shop"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: cannot connect")
    assert result.output.count("\n") == 1, result.output
    assert "s3cret" not in result.output


def test_a_newer_database_is_told(folder: Path, database: str) -> None:
    with psycopg.connect(database) as conn:
        conn.execute(
            "INSERT INTO commandbus.migration (scope, version, name, checksum) "
            "VALUES ('commandbus', 999, 'V999__later.sql', 'x')"
        )
    for command in (["worker", "shop:app"], ["migrate"]):
        refused(run(folder, *command, "--dsn", database), 1, "V999__later.sql", "newer than this program", "upgrade")


@pytest.mark.parametrize(
    ("command", "mend"),
    [(["status"], "commandbus migrate --roles"), (["migrate"], "as the owner of the schema")],
    ids=["status", "migrate"],
)
def test_a_user_without_rights_is_told_how_to_get_them(database: str, command: list[str], mend: str) -> None:
    dsn = make_conninfo(database, options="-c role=pg_monitor")  # a role that may do nothing here
    result = CliRunner().invoke(main, [*command, "--dsn", dsn])
    assert (result.exit_code, result.output.count("\n")) == (1, 1), result.output
    assert "permission denied" in result.output
    assert mend in result.output


@pytest.mark.parametrize("command", [["worker", "shop:app"], ["migrate"], ["status"]], ids=" ".join)
def test_a_database_that_is_away_is_told_without_the_password(folder: Path, command: list[str]) -> None:
    dsn = "postgresql://me:s3cret@127.0.0.1:1/shop"
    for result in (run(folder, *command, "--dsn", dsn), run(folder, *command, COMMANDBUS_DSN=dsn)):
        refused(result, 1, "cannot connect", "host=127.0.0.1", "port=1", "dbname=shop", "COMMANDBUS_DSN")
        assert "s3cret" not in result.stderr


def test_what_is_no_dsn_is_told_without_the_password(folder: Path) -> None:
    result = run(folder, "migrate", "--dsn", "host=127.0.0.1 password='s3cret")
    assert result.returncode == 2
    assert "no connection string" in result.stderr
    assert "s3cret" not in result.stderr


def test_the_dsn_may_come_from_libpq_s_variables(folder: Path, empty_dsn: str) -> None:
    parts = {name: str(value) for name, value in psycopg.conninfo.conninfo_to_dict(empty_dsn).items()}
    variables = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE"}
    result = run(folder, "migrate", COMMANDBUS_DSN="", **{variables[name]: parts[name] for name in parts})
    assert result.returncode == 0, result.stderr


def test_migrate_lists_what_it_applied_then_nothing(folder: Path, empty_dsn: str) -> None:
    own = folder / "ledger"
    own.mkdir()
    (own / "V001__ledger.sql").write_text("CREATE TABLE public.ledger (n integer);")
    first = run(folder, "migrate", "--dsn", empty_dsn)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.splitlines()[0] == "V001__commands.sql"
    assert all(line.endswith(".sql") for line in first.stdout.splitlines())
    second = run(folder, "migrate", "--dsn", empty_dsn, "--folder", str(own))
    assert (second.returncode, second.stdout) == (0, "V001__ledger.sql\n")
    third = run(folder, "migrate", "--dsn", empty_dsn, "--folder", str(own))
    assert (third.returncode, third.stdout) == (0, "nothing to do\n")


def test_a_migration_that_fails_is_told(folder: Path, database: str) -> None:
    own = folder / "ledger"
    own.mkdir()
    (own / "V001__ledger.sql").write_text("CREATE TABLE\n  nonsense (;")
    refused(
        run(folder, "migrate", "--dsn", database, "--folder", str(own)), 1, "V001__ledger.sql, line 2", "syntax error"
    )


def test_migrate_refuses_a_folder_that_is_not_there(folder: Path, database: str) -> None:
    result = run(folder, "migrate", "--dsn", database, "--folder", "nowhere")
    assert result.returncode == 2
    assert "nowhere" in result.stderr


def test_the_overview_lists_every_command_in_a_whole_line(folder: Path) -> None:
    lines = run_process(folder, "--help").stdout.splitlines()
    listed = [line.split(maxsplit=1) for line in lines[lines.index("Commands:") + 1 :]]
    assert [words for words in listed if len(words) != 2 or not words[1].endswith(".")] == []
    commands = [
        "migrate",
        "worker",
        "stop",
        "status",
        "tsq",
        "batch",
        "audit",
        "prune",
        "metrics",
        "console",
        "console-password",
        "completion",
    ]
    assert [name for name, _ in listed] == commands


def all_commands() -> list[list[str]]:
    """Each command and each command of a group, as it is written."""
    found: list[list[str]] = [[]]
    for name, command in main.commands.items():
        found.append([name])
        found += [[name, inner] for inner in getattr(command, "commands", {})]
    return found


@pytest.mark.parametrize("command", all_commands(), ids=" ".join)
def test_help_says_what_each_command_does_with_an_example(command: list[str]) -> None:
    result = CliRunner().invoke(main, [*command, "-h"], prog_name="commandbus")
    assert result.exit_code == 0
    assert result.output.startswith(" ".join(["Usage: commandbus", *command]))
    if [*command, "list"] not in all_commands():  # a group only lists its own
        assert "\n    commandbus " + " ".join(command) in result.output


@pytest.mark.parametrize("command", all_commands(), ids=" ".join)
def test_an_option_that_there_is_not_is_told(command: list[str]) -> None:
    result = CliRunner().invoke(main, [*command, "--nonsense"], prog_name="commandbus")
    assert result.exit_code == 2
    assert "--nonsense" in result.output


@pytest.mark.parametrize(
    "command", [["--help"], ["batch", "list"], ["status"], ["tsq", "list"], ["audit"], ["prune", "--older-than", "1d"]],
    ids=" ".join,
)  # fmt: skip
def test_a_reader_that_goes_is_no_error_to_tell(folder: Path, migrated_dsn: str, command: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with begun(folder, migrated_dsn, *command, stdout=writer) as process:
        os.close(writer)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, "")


def test_what_the_terminal_cannot_write_is_escaped(folder: Path) -> None:
    result = run_process(folder, "--help", PYTHONIOENCODING="latin-1")
    assert (result.returncode, result.stderr) == (0, "")
    assert "\\u2026" in result.stdout
