"""A real Patroni cluster of three nodes on the embedded programs, with Raft between them, all on the loopback."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil
import yaml

from pytest_commandbus.postgres.account import Account
from pytest_commandbus.postgres.binaries import find_binaries

PATIENCE = 240.0
SHORT_TTL = 20  # seconds, the least that Patroni takes: so long a leader may be silent
NODES = 3
NOT_ROOT = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
"""PostgreSQL refuses to run as root: there, it and Patroni have a user namespace in which they are not."""


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback that were free a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Node:
    """One of them: Patroni and the PostgreSQL that it keeps."""

    def __init__(self, name: str, home: Path, ports: tuple[int, int, int]) -> None:
        self.name = name
        self.home = home
        self.postgres, self.rest, self.raft = ports
        self.process: subprocess.Popen[bytes] | None = None

    def settings(self, others: list["Node"], programs: Path) -> dict[str, Any]:
        """Return what its Patroni is told."""
        return {
            "scope": "bus",
            "name": self.name,
            "restapi": {"listen": f"127.0.0.1:{self.rest}", "connect_address": f"127.0.0.1:{self.rest}"},
            "raft": {
                "data_dir": str(self.home / "raft"),
                "self_addr": f"127.0.0.1:{self.raft}",
                "partner_addrs": [f"127.0.0.1:{other.raft}" for other in others],
            },
            "bootstrap": {
                "dcs": {
                    "ttl": SHORT_TTL, "loop_wait": 2, "retry_timeout": 5, "synchronous_mode": True,
                    "postgresql": {"parameters": {"max_connections": 100, "shared_buffers": "32MB"}},
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, {"auth": "trust"}, "no-sync"],
            },
            "postgresql": {
                "listen": f"127.0.0.1:{self.postgres}",
                "connect_address": f"127.0.0.1:{self.postgres}",
                "data_dir": str(self.home / "data"),
                "bin_dir": str(programs),
                "pgpass": str(self.home / "pgpass"),
                "authentication": {
                    "superuser": {"username": "postgres", "password": "loopback"},
                    "replication": {"username": "replicator", "password": "loopback"},
                },
                "parameters": {"unix_socket_directories": str(self.home)},
                "pg_hba": ["local all all trust", "host all all 127.0.0.1/32 trust",
                           "host replication all 127.0.0.1/32 trust"],
            },
        }  # fmt: skip

    def kill(self) -> None:
        """End Patroni and its PostgreSQL at once, as when the machine goes."""
        if self.process is None:
            return
        root = psutil.Process(self.process.pid)
        family = [root, *root.children(recursive=True)] if self.process.poll() is None else []
        family += [
            each for each in psutil.process_iter(["cmdline"]) if str(self.home) in " ".join(each.info["cmdline"] or [])
        ]
        for each in family:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()
        psutil.wait_procs(family, timeout=PATIENCE)
        self.process = None


class Patroni:
    """The cluster."""

    def __init__(self, home: Path) -> None:
        self.home = home
        ports = free_ports(3 * NODES)
        self.nodes = [
            Node(f"node{n}", home / f"node{n}", (ports[3 * n], ports[3 * n + 1], ports[3 * n + 2]))
            for n in range(NODES)
        ]

    def start(self) -> None:
        """Start all nodes; `leader` waits for them."""
        programs = find_binaries(Account()).directory
        for node in self.nodes:
            node.home.mkdir()
            file = node.home / "patroni.yml"
            others = [other for other in self.nodes if other is not node]
            file.write_text(yaml.safe_dump(node.settings(others, programs)))
            with (self.home / f"{node.name}.log").open("wb") as log:
                node.process = subprocess.Popen(
                    [*NOT_ROOT, sys.executable, "-m", "patroni", str(file)],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=node.home,
                    env={"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(node.home)},
                )  # fmt: skip

    def members(self) -> list[dict[str, Any]]:
        """Return what the first node that answers says of all."""
        for node in self.nodes:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{node.rest}/cluster", timeout=5) as answer:
                    found: list[dict[str, Any]] = json.load(answer)["members"]
                    return found
            except (OSError, ValueError):
                continue
        return []

    def leader(self, *, followed_by: str, other_than: Node | None = None) -> Node:
        """Wait for a leader with a member of this role, such as "sync_standby"."""
        deadline = monotonic() + PATIENCE
        while True:
            found = self.members()
            names = [each["name"] for each in found if each["role"] == "leader" and each["state"] == "running"]
            leaders = [node for node in self.nodes if node.name in names and node is not other_than]
            if leaders and any(each["role"] == followed_by and each.get("lag") == 0 for each in found):
                return leaders[0]
            if monotonic() > deadline:
                logs = [f"{log.name}: {log.read_text()[-3000:]}" for log in self.home.glob("*.log")]
                raise AssertionError(f"no leader: {found}\n" + "\n".join(logs))
            sleep(0.2)

    def dsn(self) -> str:
        """Return the connection string of all nodes that leads to the one that takes writes."""
        hosts, ports = ",".join(["127.0.0.1"] * NODES), ",".join(str(node.postgres) for node in self.nodes)
        return (
            f"host={hosts} port={ports} user=postgres dbname=postgres target_session_attrs=read-write connect_timeout=3"
        )

    def stop(self) -> None:
        """End all of them."""
        for node in self.nodes:
            node.kill()


@contextmanager
def cluster() -> Iterator[Patroni]:
    """Lend a cluster with a leader."""
    home = Path(tempfile.mkdtemp(prefix="cb-patroni-"))
    patroni = Patroni(home)
    try:
        patroni.start()
        yield patroni
    finally:
        patroni.stop()
        shutil.rmtree(home, ignore_errors=True)
