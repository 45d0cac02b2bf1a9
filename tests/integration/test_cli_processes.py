"""`commandbus worker --processes N`: who starts, who dies, who is started again, and how all of them end."""

import os
import re
import signal
import time
from pathlib import Path

import psutil
import psycopg
import pytest

from commandbus import migrate
from tests.integration.cli_kit import Running, run_process, send, status, wait_until_done, worker, write_shop

FICKLE = """
import os, pathlib
from shop import app

if pathlib.Path("broken").exists():
    raise RuntimeError("no luck today")
"""

ONLY_ONE = """
import pathlib
from shop import app

pathlib.Path("taken").touch(exist_ok=False)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an application in shop.py, and two that do not always start."""
    (tmp_path / "fickle.py").write_text(FICKLE)
    (tmp_path / "only_one.py").write_text(ONLY_ONE)
    return write_shop(tmp_path)


@pytest.fixture
def database(empty_dsn: str) -> str:
    migrate(empty_dsn)
    return empty_dsn


def pids(running: Running) -> list[int]:
    """The processes that the ready line names."""
    found = re.search(r"; pids: ([0-9, ]+);", running.ready)
    assert found is not None, running.ready
    return [int(pid) for pid in found[1].split(", ")]


def started(running: Running, name: str) -> int:
    """Wait until the supervisor tells that it started this process; its pid."""
    found = re.search(r"pid (\d+) started", running.error_line_with(f"{name}: pid "))
    assert found is not None
    return int(found[1])


def wait_until_gone(processes: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(is_alive(pid) for pid in processes):
        assert time.monotonic() < deadline, f"of {processes} some are still alive"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def alive_workers(dsn: str) -> set[int]:
    """The pids of the workers that are registered and have not said goodbye."""
    with psycopg.connect(dsn) as conn:
        return {pid for (pid,) in conn.execute("SELECT pid FROM commandbus.worker WHERE stopped_at IS NULL")}


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_stops_all_of_them_gracefully(folder: Path, database: str, number: signal.Signals) -> None:
    with worker(folder, database, "--processes", "3", "--domain", "orders", "--poll-interval", "0.2") as running:
        children = pids(running)
        assert len(set(children)) == 3
        assert running.ready.startswith("worker ready: shop:app, processes: 3; ")
        assert "process 1 of 3: pid" in running.log[0]
        assert alive_workers(database) == set(children)
        command_id = send(database, "orders", "Slow", {"seconds": 0.5})
        assert running.line() == f"started {command_id}\n"
        exit_code, errors = running.end(number)
    assert (exit_code, "Traceback" in errors) == (0, False)
    assert status(database, command_id) == ("COMPLETED", {"slept": 0.5})
    assert alive_workers(database) == set()
    assert not any(is_alive(pid) for pid in children)
    assert all(f"pid {pid} ended after" in errors for pid in children)
    assert errors.count(": exit code 0") == 3


@pytest.mark.slow
def test_the_log_tells_the_processes_apart(folder: Path, database: str) -> None:
    with worker(folder, database, "--processes", "2") as running:
        for pid in pids(running):
            assert any(
                f"[{pid}] INFO" in line and "ready: shop:app, domains: billing, orders;" in line for line in running.log
            )
        assert running.end(signal.SIGTERM)[0] == 0


@pytest.mark.usefixtures("measured")
def test_one_that_is_killed_is_started_again(folder: Path, database: str) -> None:
    with worker(folder, database, "--processes", "2") as running:
        first, second = pids(running)
        os.kill(first, signal.SIGKILL)
        told = running.error_line_with(f"pid {first} ended")
        assert "killed by signal 9" in told
        assert "started again in 0.5 s" in told
        third = started(running, "process 1 of 2")
        running.error_line_with(f"[{third}] INFO commandbus.cli.worker: ready")
        os.kill(third, signal.SIGKILL)
        assert "started again in 1.0 s" in running.error_line_with(f"pid {third} ended")  # it did not live long
        started(running, "process 1 of 2")
        command_id = send(database, "billing", "Where")
        wait_until_done(database, command_id)
        assert is_alive(second)
        assert running.end(signal.SIGTERM)[0] == 0


@pytest.mark.slow
def test_one_that_is_told_to_stop_is_replaced(folder: Path, database: str) -> None:
    with worker(folder, database, "--processes", "2") as running:
        first, _ = pids(running)
        os.kill(first, signal.SIGTERM)
        assert "exit code 0" in running.error_line_with(f"pid {first} ended")
        assert started(running, "process 1 of 2") != first
        assert running.end(signal.SIGTERM)[0] == 0


@pytest.mark.slow
def test_what_cannot_start_again_is_tried_for_ever(folder: Path, database: str) -> None:
    with worker(folder, database, "--processes", "2", application="fickle:app") as running:
        first, _ = pids(running)
        (folder / "broken").touch()
        os.kill(first, signal.SIGKILL)
        running.error_line_with("no luck today")
        assert "exit code 2; started again in 1.0 s" in running.error_line_with("ended after")
        (folder / "broken").unlink()
        third = started(running, "process 1 of 2")
        running.error_line_with(f"[{third}] INFO commandbus.cli.worker: ready")
        assert running.end(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "exit_code", "error"),
    [
        (["nowhere:app"], 2, "no module 'nowhere'"),
        (["shop:app", "--domain", "shipping"], 2, "--domain shipping"),
        (["shop:app", "--dsn", "host=127.0.0.1 port=1 dbname=shop"], 1, "cannot connect"),
    ],
)
def test_what_can_never_start_is_told_once(
    folder: Path, database: str, arguments: list[str], exit_code: int, error: str
) -> None:
    result = run_process(folder, "worker", *arguments, "--processes", "3", COMMANDBUS_DSN=database)
    assert result.returncode == exit_code
    assert result.stderr.count("Error: ") == 1
    assert error in result.stderr
    assert result.stderr.count(" started") == 1, result.stderr
    assert "it was never ready" in result.stderr.splitlines()[-1]


def test_an_unmigrated_database_is_told_once(folder: Path, empty_dsn: str) -> None:
    result = run_process(folder, "worker", "shop:app", "--processes", "2", COMMANDBUS_DSN=empty_dsn)
    assert result.returncode == 1
    assert result.stderr.count("commandbus migrate") == 1


@pytest.mark.slow
def test_when_the_second_cannot_start_the_first_is_stopped(folder: Path, database: str) -> None:
    result = run_process(folder, "worker", "only_one:app", "--processes", "2", COMMANDBUS_DSN=database)
    assert result.returncode == 2
    assert "FileExistsError" in result.stderr
    assert "worker ready" not in result.stderr
    assert alive_workers(database) == set()


def test_a_second_signal_ends_all_at_once(folder: Path, database: str) -> None:
    with worker(folder, database, "--processes", "2") as running:
        children = pids(running)
        command_id = send(database, "orders", "Slow", {"seconds": 1_000})
        assert running.line() == f"started {command_id}\n"
        running.process.send_signal(signal.SIGTERM)
        running.error_line_with("stopping the processes")
        exit_code, errors = running.end(signal.SIGTERM)
    assert exit_code == 128 + signal.SIGTERM
    assert "SIGTERM again: ending at once" in errors
    wait_until_gone(children)
    assert status(database, command_id) == ("IN_PROGRESS", None)  # until its lease has run out


def test_when_the_supervisor_is_killed_the_others_end_gracefully(folder: Path, database: str) -> None:
    with worker(folder, database, "--processes", "2") as running:
        children = pids(running)
        command_id = send(database, "orders", "Slow", {"seconds": 0.5})
        assert running.line() == f"started {command_id}\n"
        running.process.kill()
        wait_until_gone(children)
    assert status(database, command_id) == ("COMPLETED", {"slept": 0.5})
    assert alive_workers(database) == set()


def test_the_password_is_not_on_a_command_line(folder: Path, database: str) -> None:
    with worker(folder, f"{database} password=s3cret", "--processes", "2") as running:
        for pid in [running.process.pid, *pids(running)]:
            assert "s3cret" not in " ".join(psutil.Process(pid).cmdline())
        assert running.end(signal.SIGTERM)[0] == 0
