"""`commandbus console` as a process, and everything else of the library without the extra that it needs."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from commandbus.cli import main
from commandbus.web import Users, hash_password
from pytest_commandbus.database import Database
from tests.console.conftest import PATIENCE
from tests.integration.cli_kit import begun, refused, run, write_shop

WITHOUT_THE_EXTRA = """
import sys
from importlib.machinery import PathFinder

find = PathFinder.find_spec
HIDDEN = ("fastapi", "starlette", "uvicorn", "python_multipart", "multipart")
PathFinder.find_spec = lambda name, *more: None if name.partition(".")[0] in HIDDEN else find(name, *more)
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return write_shop(tmp_path)


def test_it_serves_until_a_signal(shop: Path, cb_database: Database) -> None:
    with begun(shop, cb_database.dsn, "console", "shop:app", "--port", "0", "--title", "Till") as process:
        assert process.stderr is not None
        ready = process.stderr.readline()
        assert ready.startswith("console ready: http://127.0.0.1:"), ready + process.stderr.read()
        page = httpx.get(ready.split()[-1], headers={"accept": "text/html"}, timeout=PATIENCE)
        assert page.status_code == 200
        assert "Till" in page.text
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=PATIENCE)
        assert (process.returncode, rest) == (0, "")


def test_it_refuses_what_would_open_it_to_others(shop: Path) -> None:
    """In this process: none of it comes as far as the database."""

    def asked(*arguments: str) -> tuple[int, str]:
        found = CliRunner().invoke(main, ["console", "shop:app", "--port", "0", *arguments])
        return found.exit_code, found.stderr

    (shop / "users").write_text("anna:secret\n")
    (shop / "good").write_text(f"anna:{hash_password('correct horse')}\n")
    for arguments, *told in (
        (["--host", "0.0.0.0"], "'0.0.0.0'", "--users FILE"),  # noqa: S104  refused
        (["--host", "192.0.2.7"], "'192.0.2.7'", "--users FILE"),
        (["--allowed-host", "bus.example.org"], "'bus.example.org'", "--users FILE"),
        (["--users", str(shop / "users")], "'anna'", "console-password"),
        (["--users", str(shop / "none")], "does not exist"),
        (["--users", str(shop / "good"), "--host", "192.0.2.7"], "no module 'shop'"),  # only then it goes on
    ):
        exit_code, error = asked(*arguments)
        assert exit_code == 2, arguments
        for part in told:
            assert part in error, error


def test_a_port_that_is_taken_is_told_in_one_line(shop: Path, cb_database: Database) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = run(shop, "console", "shop:app", "--port", port, COMMANDBUS_DSN=cb_database.dsn)
    refused(result, 1, f"cannot listen on 127.0.0.1 port {port}", "--port")


def test_the_line_of_a_user_lets_that_user_in(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["console-password", "anna"], input="correct horse\ncorrect horse\n")
    line = result.stdout.splitlines()[-1]
    (tmp_path / "users").write_text(line)
    assert Users.read(tmp_path / "users").check("anna", "correct horse")
    assert "correct" not in result.output
    short = CliRunner().invoke(main, ["console-password", "anna", "--password", "short"])
    assert (short.exit_code, "8 characters" in short.stderr) == (2, True)


def test_without_the_extra_all_but_the_console_works(shop: Path) -> None:
    code = f"""{WITHOUT_THE_EXTRA}
import commandbus, commandbus.sync, commandbus.process, commandbus.history, pytest_commandbus
from click.testing import CliRunner
from commandbus.cli import main

for arguments in (["--help"], ["worker", "--help"], ["console", "--help"]):
    assert CliRunner().invoke(main, arguments).exit_code == 0
found = CliRunner().invoke(main, ["console", "shop:app"])
print(found.exit_code, found.stderr)
loaded = sorted(set(HIDDEN) & set(sys.modules))
assert not loaded, loaded
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=shop, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("2 Error: commandbus.web needs fastapi, python_multipart, uvicorn")
    assert "pip install 'pytest-commandbus[web]'" in result.stdout
