"""`commandbus metrics`, `commandbus completion`, and Ctrl-C in a command without an event loop."""

import signal
import subprocess
from pathlib import Path
from time import monotonic, sleep

import httpx
import psycopg
import pytest
from click.shell_completion import get_completion_class

from commandbus import migrate
from commandbus._core.migration_sql import MigrationSQL
from commandbus.cli import main
from tests.integration.cli_kit import begun, refused, run

WAITING = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"


def test_prometheus_is_served_until_ctrl_c(tmp_path: Path, empty_dsn: str) -> None:
    migrate(empty_dsn)
    with begun(tmp_path, empty_dsn, "metrics", "--port", "0") as process:
        assert process.stderr is not None
        ready = process.stderr.readline()
        assert ready.startswith("metrics ready: http://127.0.0.1:"), ready + process.stderr.read()
        address = ready.removeprefix("metrics ready: ").strip()
        assert "\ncommandbus_up 1.0\n" in httpx.get(address, timeout=60).text
        port = address.rpartition(":")[2].partition("/")[0]
        refused(run(tmp_path, "metrics", "--port", port, "--dsn", empty_dsn), 1, "cannot listen on 127.0.0.1:" + port)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, "", "")


def test_ctrl_c_ends_migrate_and_what_it_waits_for(tmp_path: Path, empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as other, psycopg.connect(empty_dsn, autocommit=True) as watching:
        other.execute(MigrationSQL.LOCK)
        with begun(tmp_path, empty_dsn, "migrate") as process:
            until(watching, waits=True)
            process.send_signal(signal.SIGINT)
            out, errors = process.communicate(timeout=60)
        assert (process.returncode, out, errors) == (130, "", "stopped by SIGINT\n")
        until(watching, waits=False)


def until(conn: "psycopg.Connection[tuple[object, ...]]", *, waits: bool) -> None:
    deadline = monotonic() + 60
    while (conn.execute(WAITING).fetchone() is not None) != waits:
        assert monotonic() < deadline
        sleep(0.02)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands_and_options(tmp_path: Path, shell: str) -> None:
    printed = run(tmp_path, "completion", shell)
    assert (printed.returncode, printed.stderr) == (0, "")
    assert f"_COMMANDBUS_COMPLETE={shell}_complete" in printed.stdout
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=printed.stdout, text=True, check=True, timeout=60)
    kind = get_completion_class(shell)
    assert kind is not None
    completes = kind(main, {}, "commandbus", "_COMMANDBUS_COMPLETE")
    assert [item.value for item in completes.get_completions([], "m")] == ["migrate", "metrics"]
    assert "--older-than" in [item.value for item in completes.get_completions(["prune"], "--")]
