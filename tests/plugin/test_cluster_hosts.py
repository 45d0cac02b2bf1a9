"""--cb-cluster on two hosts: network namespaces, each with a name and an address of its own, and a cable between."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import dask_kit
from .conftest import STRICT, Suite

NAMES = ("alpha", "beta")
ADDRESSES = ("198.18.0.1", "198.18.0.2")  # of the range for tests of devices
LOAD = """
@pytest.mark.load
async def test_orders(cb_load):
    result = await cb_load(OrderProcess, initial_data=lambda i: {"order": i, "slow": 0.05}, concurrency=5)
    assert result.mismatches == []
"""
# A server that listens on the host's own address and is asked for no password there, and a test run that uses it.
DRIVER = """
import subprocess, sys, time
import psycopg
from pytest_commandbus.postgres.server import EmbeddedPostgres

address, *line = sys.argv[1:]
with EmbeddedPostgres(settings={"listen_addresses": address}) as server:
    with (server.data / "pg_hba.conf").open("a") as file:
        file.write("host all all 198.18.0.0/24 trust\\n")
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        ((before,),) = conn.execute("SELECT pg_conf_load_time()").fetchall()
        conn.execute("SELECT pg_reload_conf()")
        while conn.execute("SELECT pg_conf_load_time()").fetchall() == [(before,)]:  # sessions are told then
            time.sleep(0.01)
    port = psycopg.conninfo.conninfo_to_dict(server.dsn())["port"]
    given = f"--cb-postgres=host={address} port={port} user=postgres dbname=postgres"
    sys.exit(subprocess.run([*line, given]).returncode)
"""


class Hosts:
    """The two of them, as prefixes of command lines."""

    def __init__(self) -> None:
        self.spaces = [f"cb{os.getpid()}{name}" for name in NAMES]
        self.prefixes = [
            ["ip", "netns", "exec", space, "unshare", "--uts", "sh", "-c", f'hostname {name}; exec "$@"', "sh"]
            for space, name in zip(self.spaces, NAMES, strict=True)
        ]

    def make(self) -> None:
        """Make both, and the cable."""
        first, second = self.spaces
        for space in self.spaces:
            _ip("netns", "add", space)
        _ip("link", "add", "cable", "netns", first, "type", "veth", "peer", "name", "cable", "netns", second)
        for space, address in zip(self.spaces, ADDRESSES, strict=True):
            _ip("-n", space, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                _ip("-n", space, "link", "set", device, "up")

    def end(self) -> None:
        """Remove both, and the cable with them."""
        for space in self.spaces:
            subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    pytest.importorskip("distributed", reason="the extra `cluster` is not installed")
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("unshare") is None:
        pytest.skip("network namespaces need root, and the programs ip and unshare")
    hosts = Hosts()
    try:
        try:
            hosts.make()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine lets nobody make network namespaces: {error.stderr}")
        yield hosts
    finally:
        hosts.end()


@pytest.mark.slow
def test_workers_of_two_hosts_share_a_load_run(suite: Suite, hosts: Hosts, tmp_path: Path) -> None:
    suite.write(LOAD)
    folder = suite.pytester.path
    (folder / "driver.py").write_text(DRIVER)
    with dask_kit.running(tmp_path / "cluster") as cluster:
        cluster.start_scheduler(ADDRESSES[0], hosts.prefixes[0])
        for address, prefix in zip(ADDRESSES, hosts.prefixes, strict=True):
            cluster.start_worker(address, threads=1, prefix=prefix)
        cluster.until_ready()
        given = [*STRICT, "--cb-load=200", f"--cb-cluster={cluster.address}", "--cb-report=out.json"]
        line = [sys.executable, "-m", "pytest", "-ppytest_commandbus", *given]
        done = subprocess.run(
            [*hosts.prefixes[0], sys.executable, "driver.py", ADDRESSES[0], *line],
            cwd=folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "alpha (1 worker), beta (1 worker)" in done.stdout
    report = json.loads((folder / "out.json").read_text())
    assert report["environment"]["hosts"] == {"alpha": 1, "beta": 1}
    assert report["outcomes"] == {"COMPLETED": 200}
