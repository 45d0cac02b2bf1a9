"""The bus on a Patroni cluster whose leader is killed: no acknowledged command is lost, and workers go on."""

import asyncio
import importlib.util
import signal
from pathlib import Path

import psycopg
import pytest

from commandbus import migrate
from tests.integration.cli_kit import worker
from tests.integration.test_failover import APP, Sender, found, wait_for

from .patroni_kit import cluster

NEEDED = ("patroni", "pysyncobj")


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED), reason="needs: pip install 'patroni[raft]'"
)
def test_workers_go_on_when_the_leader_of_a_patroni_cluster_is_killed(tmp_path: Path) -> None:
    (tmp_path / "counting.py").write_text(APP)
    with cluster() as patroni:
        first = patroni.leader(followed_by="sync_standby")
        dsn = patroni.dsn()
        migrate(dsn)
        sender = Sender(dsn)
        sender.start()
        with worker(tmp_path, dsn, "--visibility-timeout", "5", application="counting:app") as running:
            wait_for(lambda: len(sender.acknowledged) >= 200, "200 sends before the leader's end")
            first.kill()
            wait_for(lambda: sender.failures > 0, "a send to fail")
            before = len(sender.acknowledged)
            second = patroni.leader(followed_by="sync_standby", other_than=first)
            wait_for(lambda: len(sender.acknowledged) >= before + 200, "200 sends on the new leader")
            sender.is_over.set()
            sender.join()
            with psycopg.connect(dsn, autocommit=True) as conn:
                wait_for(
                    lambda: conn.execute("SELECT count(*) FROM commandbus.queue").fetchone() == (0,), "an empty queue"
                )
                assert conn.info.port == second.postgres
            assert running.end(signal.SIGTERM)[0] == 0
        statuses, violations = asyncio.run(found(dsn))
    assert [i for i in sender.acknowledged if i not in statuses] == []
    assert {statuses[i] for i in sender.acknowledged} == {"COMPLETED"}
    assert not violations, violations
