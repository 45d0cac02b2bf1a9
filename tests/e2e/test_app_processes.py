"""The application and the load test as processes of their own: what they print, and that they leave nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from tests.e2e.app.__main__ import main as application_main
from tests.e2e.app.files import VARIABLE
from tests.e2e.conftest import PATIENCE
from tests.e2e.load_test import main as load_test_main

ROOT = Path(__file__).parents[2]
OWN_SERVER = {name: value for name, value in os.environ.items() if name != "CB_POSTGRES"}


def load_test(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.e2e.load_test", *options],
        cwd=ROOT,
        env=OWN_SERVER,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def figures(output: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w[\w ]+): +(.+)$", output, flags=re.MULTILINE))


def test_the_load_test_ends_as_its_seed_predicts() -> None:
    done = load_test("--commands", "400", "--workers", "1", "--success-pct", "75", "--delay-ms", "1", "--seed", "11")
    assert done.returncode == 0, done.stdout + done.stderr
    told = figures(done.stdout)
    assert (told["Total Commands"], told["Workers"]) == ("400", "1")
    assert {"Total Time", "Throughput", "p50", "p95", "p99"} <= told.keys()
    completed, parked = (int(re.match(r"\d+", told[name])[0]) for name in ("Completed", "In TSQ"))  # type: ignore[index]
    assert completed + parked == 400
    assert 0.6 < completed / 400 < 0.9  # seed 11: what it predicts was compared by the command itself
    assert told["Completed"] == f"{completed} (predicted {completed})"


@pytest.mark.slow
def test_ten_thousand_commands_on_four_workers() -> None:
    done = load_test("--commands", "10000", "--workers", "4", "--success-pct", "90", "--seed", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "commandbus: load test:" in done.stdout  # progress
    assert figures(done.stdout)["Total Commands"] == "10,000"


@pytest.fixture
def application(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """The application on a free port, with one worker."""
    command = [sys.executable, "-m", "tests.e2e.app", "--port", "0", "--workers", "1"]
    environment = OWN_SERVER | {VARIABLE: str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_the_application_serves_what_its_workers_do_and_ends_with_all_it_started(
    application: "subprocess.Popen[str]",
) -> None:
    assert application.stdout is not None
    ready = application.stdout.readline()
    found = re.match(r"ready: (http://127\.0\.0\.1:\d+)/ ", ready)
    assert found is not None, ready
    address = found[1]
    asked = {
        "count": 5,
        "from_date": "2026-05-01",
        "to_date": "2026-05-31",
        "account_list": ["ACC-0001"],
        "output_type": "html",
    }
    made = ask(f"{address}/api/processes/batch", asked)
    deadline = time.monotonic() + PATIENCE
    while (seen := ask(f"{address}/api/batches/{made['batch_id']}"))["batch_status"] != "COMPLETED":
        assert time.monotonic() < deadline, seen
        time.sleep(0.1)
    assert seen["completed_count"] == 5
    assert ask(f"{address}/api/v1/stats/throughput")["active_workers"] == 2
    started = psutil.Process(application.pid).children(recursive=True)
    assert len(started) >= 2  # a worker and a server
    application.send_signal(signal.SIGINT)
    assert application.wait(PATIENCE) == 0
    _, left = psutil.wait_procs(started, PATIENCE)
    assert left == []


def ask(address: str, body: object = None) -> dict[str, object]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"content-type": "application/json"})  # noqa: S310  our own
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:  # noqa: S310
        found: dict[str, object] = json.load(answer)
        return found


def test_an_address_that_others_reach_is_refused_without_users_and_so_is_too_much() -> None:
    refused = CliRunner().invoke(application_main, ["--host", "0.0.0.0", "--workers", "0"])  # noqa: S104
    assert refused.exit_code == 2
    assert "could be reached from other machines" in refused.output
    assert CliRunner().invoke(load_test_main, ["--commands", "100001"]).exit_code == 2
