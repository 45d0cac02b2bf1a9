"""--cb-cluster: the workers of a load test on a real Dask cluster, whose hosts come and go."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import dask_kit
from .conftest import Suite

LONGEST = 120.0
ROUGH = """
@pytest.mark.load
@pytest.mark.chaos(reserve={"fail_transient_pct": 30}, payment={"fail_permanent_pct": 10})
async def test_orders(cb_load):
    result = await cb_load(OrderProcess, initial_data=lambda i: {"order": i})
    assert result.mismatches == []
"""
# A Dask worker without a nanny is what started the process of the handler.
DEADLY = """
import os, signal
from pathlib import Path
import shop
from commandbus.process import ProcessCommand

died = Path(__file__).with_name("died")

@shop.app.handler("orders", "Die")
async def die(command, context):
    try:
        died.touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getppid(), signal.SIGKILL)

class DeadlyProcess(shop.OrderProcess):
    process_type = "Deadly"
    def build_command(self, step, state):
        return ProcessCommand("Die" if state.order == 7 else str(step), {"order": state.order, "slow": 0.0})

shop.app.add_process(DeadlyProcess)
app = shop.app
"""
DEADLY_TEST = """
import pytest
from deadly import DeadlyProcess, app

@pytest.fixture
def cb_app():
    return app

@pytest.mark.load
async def test_orders(cb_load):
    result = await cb_load(DeadlyProcess, initial_data=lambda i: {"order": i}, workers=2)
    assert result.outcomes == {"COMPLETED": 40}
"""
SOON_ALONE = """
@pytest.fixture(autouse=True)
def soon_alone(monkeypatch):
    monkeypatch.setattr("pytest_commandbus.cluster.ALONE_SECONDS", 1.0)
"""
ENDLESS = """
@pytest.mark.load(real_time=True)
async def test_orders(cb_load):
    await cb_load(OrderProcess, initial_data=lambda i: {"order": i, "slow": 1000.0})
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dask_kit.Cluster]:
    """A cluster with two Dask workers of two threads each."""
    # Here, not on top: the fast tests need none of it. In-process runs find it imported, and do not forget it.
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    with dask_kit.running(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.start_scheduler()
        cluster.start_worker()
        cluster.start_worker()
        cluster.until_ready()
        yield cluster


def until(is_so: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LONGEST
    while not is_so():
        assert time.monotonic() < deadline, f"not within {LONGEST:.0f} s: {what}"
        time.sleep(0.1)


def is_without_workers(cluster: dask_kit.Cluster) -> bool:
    return not any(worker.children() for worker in cluster.workers)


@pytest.mark.slow
def test_the_workers_of_a_load_run_are_those_of_the_cluster(suite: Suite, cluster: dask_kit.Cluster) -> None:
    suite.write(ROUGH)
    given = ("--cb-load=60", "--cb-seed=5", f"--cb-cluster={cluster.address}", "--cb-report=far.json")
    suite.run(*given).assert_outcomes(passed=1)
    until(lambda: is_without_workers(cluster), "their processes ended with the run")
    suite.run("--cb-load=60", "--cb-seed=5", "--cb-report=near.json").assert_outcomes(passed=1)

    far, near = (json.loads((suite.pytester.path / name).read_text()) for name in ("far.json", "near.json"))
    assert far["environment"]["cluster"] == cluster.address
    assert far["environment"]["hosts"] == {os.uname().nodename: far["workers"]}
    assert far["outcomes"] == near["outcomes"] == far["environment"]["predicted"]
    assert far["retries"] == near["retries"] > 0
    for step, figures in near["steps"].items():
        assert far["steps"][step]["outcomes"] == figures["outcomes"]
        assert far["steps"][step]["latency_ms"].keys() == figures["latency_ms"].keys() == {"p50", "p95", "p99"}


@pytest.mark.slow
def test_a_dask_worker_that_is_killed_loses_nothing(suite: Suite, cluster: dask_kit.Cluster) -> None:
    (suite.pytester.path / "deadly.py").write_text(DEADLY)
    suite.write(DEADLY_TEST, head="")
    result = suite.run("--cb-load=40", f"--cb-cluster={cluster.address}")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*hosts *worker*", "*COMPLETED*40*"])
    assert cluster.forget_dead() == 1
    cluster.start_worker()
    cluster.until_ready()


@pytest.mark.slow
def test_a_run_whose_last_dask_worker_is_killed_says_so(
    suite: Suite, cluster: dask_kit.Cluster, tmp_path: Path
) -> None:
    (suite.pytester.path / "deadly.py").write_text(DEADLY)
    suite.write(DEADLY_TEST + SOON_ALONE, head="")
    with dask_kit.running(tmp_path / "small") as small:
        small.start_scheduler()
        small.start_worker()
        small.until_ready()
        result = suite.run_process("--cb-load=40", f"--cb-cluster={small.address}")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{small.address}: no Dask worker has been left*`dask worker {small.address}`*"])


@pytest.mark.slow
def test_workers_end_when_the_test_run_is_killed(suite: Suite, cluster: dask_kit.Cluster) -> None:
    suite.write(ENDLESS)
    run = suite.start(f"--cb-postgres={suite.dsn}", "--cb-load=4", f"--cb-cluster={cluster.address}")
    try:
        until(lambda: sum(len(worker.children()) for worker in cluster.workers) == 4, "a process for each thread")
    finally:
        run.kill()
        run.wait()
    until(lambda: is_without_workers(cluster), "the processes ended")


@pytest.mark.slow
def test_a_cluster_that_cannot_run_them_is_refused_with_the_reason(
    cluster: dask_kit.Cluster, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from commandbus.repositories import workers
    from pytest_commandbus import cluster as subject

    address, survey = cluster.address, subject._survey
    assert survey(address, subject.Dsn(suite.dsn)) == 4

    with pytest.raises(pytest.UsageError) as unreachable:
        survey(address, subject.Dsn("host=/nowhere user=me password=canary dbname=cb"))
    for told in ("cannot reach the test's database", "/nowhere", "this machine only", "--cb-postgres=postgresql://"):
        assert told in str(unreachable.value)
    assert "canary" not in str(unreachable.value) + cluster.logs()

    monkeypatch.setattr(workers, "library_version", lambda: "9.9")
    with pytest.raises(pytest.UsageError, match=r"has pytest-commandbus 0\..*, this run 9\.9: install the same"):
        survey(address, subject.Dsn(suite.dsn))

    monkeypatch.setattr(subject, "CONNECT_SECONDS", 1.0)
    with (
        dask_kit.running(tmp_path / "empty") as empty,
        pytest.raises(pytest.UsageError, match=r"no Dask workers: start some on each host with `dask worker tcp://"),
    ):
        survey(empty.start_scheduler(), subject.Dsn(suite.dsn))
    with pytest.raises(pytest.UsageError, match=r"no Dask scheduler answers there .* start one with `dask scheduler`"):
        survey("tcp://127.0.0.1:1", subject.Dsn(suite.dsn))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--cb-load=1", "--cb-cluster=somewhere"), "*'somewhere' is no scheduler's address: write --cb-cluster=tcp://HO*"),
        (("--cb-cluster=tcp://127.0.0.1:1",), "*give --cb-load=N beside it*"),
    ],
)  # fmt: skip
def test_an_option_that_says_nothing_is_a_usage_error(suite: Suite, options: tuple[str, ...], told: str) -> None:
    suite.write("def test_nothing():\n    pass\n", head="")
    result = suite.run(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([told])


def test_workers_that_must_be_here_are_not_on_a_cluster(suite: Suite) -> None:
    suite.write("""
        @pytest.mark.load
        async def test_orders(cb_load):
            await cb_load(OrderProcess, processes=False)
    """)
    result = suite.run("--cb-load=1", "--cb-cluster=tcp://127.0.0.1:1")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*processes=False needs them here: leave one out*"])
