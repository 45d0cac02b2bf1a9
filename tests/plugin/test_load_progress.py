"""Live progress of a load test: lines without a terminal, a bar on one, nothing with -q, nothing in captured output."""

import os
import pty
import re
import subprocess
import sys

import pytest

from .conftest import STRICT, Suite

SLOW = """
@pytest.mark.load(real_time=True)
async def test_orders(cb_load):
    print("what the test prints")
    await cb_load(OrderProcess, initial_data={"slow": 0.4}, workers=1, concurrency=2, processes=False)
"""
LINE = re.compile(r"^commandbus: test_orders: \d+ of 16 done \(\d+ %\)", re.MULTILINE)


@pytest.mark.parametrize(("workers", "passed"), [("0", 1), ("1", 1), ("2", 2)])
def test_without_a_terminal_there_are_lines(
    suite: Suite, workers: str, passed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # then lines could overtake what pytest has not written yet
    suite.write(SLOW)
    result = suite.run_process("--cb-load=16", f"-n{workers}", "-rA")
    result.assert_outcomes(passed=passed)
    output = result.stdout.str()
    running, _, told = output.partition("= PASSES =")
    assert LINE.search(running)
    assert running.index("test session starts") < running.index("commandbus: test_orders")
    assert not LINE.search(told)
    assert "what the test prints" not in running
    assert "what the test prints" in told


def test_q_shows_none(suite: Suite) -> None:
    suite.write(SLOW)
    result = suite.run_process("--cb-load=16", "-q")
    assert result.ret == 0
    assert not LINE.search(result.stdout.str())
    result.stdout.fnmatch_lines(["=* commandbus load *="])


def test_on_a_terminal_there_is_a_bar(suite: Suite) -> None:
    suite.write(SLOW)
    words = [sys.executable, "-m", "pytest", *STRICT, f"--cb-postgres={suite.dsn}", "--cb-load=16"]
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(words, stdout=theirs, stderr=theirs, cwd=suite.pytester.path, env=environment) as process:
        os.close(theirs)
        shown = read_all(ours)
    os.close(ours)
    assert process.returncode == 0
    assert "test_orders: running" in shown
    assert re.search(r"\d+/16", shown)
    assert not LINE.search(shown)


def read_all(descriptor: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # Linux says so when the other side is closed
            part = b""
        if not part:
            return b"".join(parts).decode(errors="replace")
        parts.append(part)
