"""Live progress of a load test: lines without a terminal, a bar on one, nothing with -q, nothing in captured output."""

import os
import pty
import re
import subprocess
import sys
import threading

import pytest

from .conftest import STRICT, Suite

# It ends once its progress was seen, however slow the machine is.
SLOW = """
import os

@pytest.mark.load(real_time=True)
async def test_orders(cb_load):
    print("what the test prints")
    await cb_load(OrderProcess, initial_data={"until": os.environ.get("SEEN", "")}, workers=1, processes=False)
"""
PATIENCE = 120.0  # seconds, on a machine that is busy with other things
LINE = re.compile(r"^commandbus: test_orders: \d+ of 16 done \(\d+ %\)", re.MULTILINE)


@pytest.mark.parametrize(
    ("workers", "passed"),
    [("0", 1), pytest.param("1", 1, marks=pytest.mark.slow), pytest.param("2", 2, marks=pytest.mark.slow)],
)
def test_without_a_terminal_there_are_lines(
    suite: Suite, workers: str, passed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # then lines could overtake what pytest has not written yet
    suite.write(SLOW)
    output = run_until_seen(suite, LINE, f"-n{workers}", "-rA")
    assert f"{passed} passed" in output
    running, _, told = output.partition("= PASSES =")
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
    shown = run_until_seen(suite, re.compile(r"test_orders: running.*\d+/16", re.DOTALL), terminal=True)
    assert not LINE.search(shown)


def run_until_seen(suite: Suite, pattern: re.Pattern[str], *arguments: str, terminal: bool = False) -> str:
    """Run a load of 16 that ends once its output matches; returns all of it. Fails when it never does."""
    seen = suite.pytester.path / "seen"
    words = [sys.executable, "-m", "pytest", *STRICT, f"--cb-postgres={suite.dsn}", "--cb-load=16", *arguments]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "SEEN": str(seen)}
    ours, theirs = pty.openpty() if terminal else os.pipe()
    with subprocess.Popen(words, stdout=theirs, stderr=theirs, cwd=suite.pytester.path, env=environment) as process:
        os.close(theirs)
        too_late = threading.Timer(PATIENCE, process.terminate)
        too_late.start()
        shown = b""
        while part := read(ours):
            shown += part
            if pattern.search(shown.decode(errors="replace")):
                seen.touch()
    too_late.cancel()
    os.close(ours)
    assert seen.exists(), shown.decode(errors="replace")
    assert process.returncode == 0, shown.decode(errors="replace")
    return shown.decode(errors="replace")


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux says so when the other side of a terminal is closed
        return b""
