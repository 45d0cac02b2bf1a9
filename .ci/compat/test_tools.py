"""The plugin beside other plugins of pytest, in these versions: each test runs pytest on the shop, or on trouble."""

import os
import re
import subprocess
import sys
import time

import psutil
import pytest

STRICT = ("--strict-markers", "--strict-config", "-W", "error", "-p", "no:cacheprovider", "--cb-seed=7")
SECONDS = 900


@pytest.fixture
def run(tmp_path):
    def run_pytest(*arguments, **environment):
        line = [sys.executable, "-m", "pytest", *STRICT, *arguments]
        environment = {**os.environ, "NOTES": str(tmp_path / "notes"), "CB_MARK": str(tmp_path), **environment}
        run = subprocess.run(
            line, cwd="suite", env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        print(run.stdout, run.stderr)
        return run

    return run_pytest


def outcomes(run):
    last = re.findall(r"^=* ?(.*\d+ (?:passed|failed).*) in ", run.stdout, re.MULTILINE)[-1]
    return {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|rerun|errors?|warnings?)", last)}


def left_running(tmp_path):
    """The processes that a run started, and that still live: they have its mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CB_MARK") == str(tmp_path):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def none_left_running(tmp_path):
    deadline = time.monotonic() + 60
    while left_running(tmp_path):
        assert time.monotonic() < deadline, left_running(tmp_path)
        time.sleep(0.1)


def test_in_random_order_under_xdist_with_coverage(run, tmp_path):
    options = ("-p", "randomly", "-n", "2", "--timeout=120", "--reruns=1", "--cov=shop", "--cov-report=term")
    done = run("test_own.py", "test_examples.py", "--cb-load=20", *options, COVERAGE_FILE=str(tmp_path / "coverage"))
    assert outcomes(done) == {"passed": 8}
    assert re.search(r"Using --randomly-seed=\d+", done.stdout)
    assert re.search(r"^shop\.py .* (9\d|100)%$", done.stdout, re.MULTILINE)
    none_left_running(tmp_path)


def test_in_auto_mode_and_one_process(run, tmp_path):
    done = run("test_own.py", "--asyncio-mode=auto", "-p", "no:randomly", "--deselect=test_own.py::test_many_orders")
    assert outcomes(done)["passed"] == 5
    none_left_running(tmp_path)


@pytest.mark.parametrize("more", [(), ("-n", "1")], ids=["one process", "xdist"])
def test_a_rerun_is_fresh_and_has_the_same_outcome(run, tmp_path, more):
    done = run("test_troubled.py", "-k", "chaos or fine", "--reruns=1", *more)
    assert outcomes(done) == {"failed": 1, "passed": 1, "rerun": 1}
    notes = (tmp_path / "notes").read_text().splitlines()
    assert len({line for line in notes if line.startswith("database")}) == 2
    told = [line for line in notes if line.startswith("outcomes")]
    assert len(told) == 2
    assert len(set(told)) == 1
    assert "commandbus: seed" in done.stdout
    assert re.search(r"run again with:\n.*test_fails_under_chaos --cb-seed=7", done.stdout)


def test_a_timeout_within_a_test_tells_all_and_leaves_nothing(run, tmp_path):
    done = run("test_troubled.py", "-p", "no:randomly", "-k", "hangs or fine", "--timeout=200")
    assert outcomes(done) == {"failed": 3, "passed": 1}
    assert done.stdout.count("Failed: Timeout (>200.0s) from pytest-timeout") >= 3
    assert done.stdout.count("- commandbus: seed -") == done.stdout.count("- commandbus: batches -") == 3
    assert (tmp_path / "notes").read_text().splitlines() == ["hanging"] * 3
    none_left_running(tmp_path)


def test_a_timeout_that_ends_the_whole_run_leaves_nothing(run, tmp_path):
    done = run("test_troubled.py", "-p", "no:randomly", "-k", "test_hangs", "--timeout=5", "--timeout-method=thread")
    assert done.returncode == 1
    assert "Timeout" in done.stdout + done.stderr
    none_left_running(tmp_path)
