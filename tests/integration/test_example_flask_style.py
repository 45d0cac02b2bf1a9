"""The example of threaded, blocking views, run as its reader runs it: migrated, served, with a worker beside it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.integration.sync.sync_kit import until

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "flask_style"
SECONDS = 60


@pytest.fixture(scope="module")
def shop(postgres_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Shop"]:
    folder = tmp_path_factory.mktemp("example") / "flask_style"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    with postgres_server.database("flask_style") as dsn:
        shop = Shop(folder, dsn)
        try:
            shop.start()
            yield shop
        finally:
            shop.stop()


class Shop:
    """The processes of the example, and a client for them."""

    def __init__(self, folder: Path, dsn: str) -> None:
        self.dsn = dsn
        self.url = ""
        self.folder = folder
        self.environment = os.environ | {"SHOP_DSN": dsn}
        self.processes: list[subprocess.Popen[str]] = []

    def start(self) -> None:
        command = ["-m", "commandbus"]
        migration = self._run(*command, "migrate", "--dsn", self.dsn, "--folder", "migrations")
        assert (migration.communicate(timeout=SECONDS)[1], migration.returncode) == ("", 0)
        web = self._run("web.py", "0")
        worker = self._run(*command, "worker", "shop:app", "--dsn", self.dsn)
        self.processes += [web, worker]
        assert web.stdout is not None
        assert worker.stderr is not None
        self.url = web.stdout.readline().strip().removeprefix("listening on ")
        assert self.url.startswith("http://127.0.0.1:"), web.communicate()
        assert any("worker ready: shop:app" in line for line in worker.stderr), worker.communicate()

    def stop(self) -> None:
        """End both as a supervisor would: quietly, with code 0."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        ended = [(*process.communicate(timeout=SECONDS), process.returncode) for process in self.processes]
        assert [code for _, _, code in ended] == [0, 0], ended
        assert ended[0][1] == "", "the web server complained"

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=SECONDS) as answer:  # noqa: S310
            return json.load(answer)

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), method="POST")  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def order(self, **asked: Any) -> str:
        status, body = self.post("/orders", asked)
        assert status == 202, body
        look_at: str = body["look_at"]
        return look_at

    def until(self, path: str, status: str) -> Any:
        """Wait until an order has this status."""
        return until(lambda: found if (found := self.get(path))["status"] == status else None, f"{path} {status}")

    def count(self) -> tuple[Any, ...]:
        with psycopg.connect(self.dsn) as conn:
            row = conn.execute(
                "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM commandbus.process)"
            ).fetchone()
        return row or ()

    def _run(self, *line: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *line],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def test_an_order_is_placed_charged_and_shipped(shop: Shop) -> None:
    order = shop.until(shop.order(customer="Ann", cents=4200), "COMPLETED")
    assert order["parcel"].startswith("P0")
    assert order["steps"] == ["ChargeCard COMPLETED", "ShipParcel COMPLETED"]


def test_what_the_business_refuses_is_told(shop: Shop) -> None:
    order = shop.until(shop.order(customer="Bob", cents=2_000_000), "CANCELED")
    assert (order["parcel"], order["error"]) == (None, "the card is not good for so much")


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"customer": "Cid", "cents": 0}, "CheckViolation"),
        ({"customer": "Cid", "cents": 5, "colour": "red"}, "an order has no colour"),
    ],
)
def test_an_order_that_cannot_start_is_not_placed_either(shop: Shop, asked: dict[str, Any], problem: str) -> None:
    before = shop.count()
    status, body = shop.post("/orders", asked)
    assert status == 400
    assert problem in body["error"]
    assert shop.count() == before


def test_an_operator_retries_what_is_parked(shop: Shop) -> None:
    order = shop.order(customer="", cents=5)
    shop.until(order, "WAITING_FOR_TSQ")
    (parked,) = shop.get("/parked")
    assert (parked["command_type"], parked["error"]) == ("ShipParcel", "a parcel needs a name")
    assert shop.post(f"/parked/{parked['command_id']}/retry", {"reason": "left at the door"})[0] == 202
    shop.until(order, "COMPLETED")
    status, body = shop.post(f"/parked/{parked['command_id']}/retry", {})
    assert status == 400
    assert "only one in the troubleshooting queue can be retried" in body["error"]


def test_a_view_waits_for_the_worker_s_answer(shop: Shop) -> None:
    status, body = shop.post("/receipts", {"to": "Ann"})
    assert (status, body["outcome"], body["result"]) == (200, "SUCCESS", {"receipt": "Dear Ann, thank you."})


def test_clients_that_come_at_the_same_time_are_let_in(shop: Shop) -> None:
    """While the server takes none, as one that is busy: each beyond its queue would wait in vain."""
    address = ("127.0.0.1", int(shop.url.rpartition(":")[2]))
    web = shop.processes[0]
    web.send_signal(signal.SIGSTOP)
    try:
        with ExitStack() as connections:
            for _ in range(60):
                connections.enter_context(socket.create_connection(address, timeout=10))
    finally:
        web.send_signal(signal.SIGCONT)
    assert shop.get("/parked") == []


def test_many_requests_at_once(shop: Shop) -> None:
    with ThreadPoolExecutor(16) as clients:
        orders = list(clients.map(lambda n: shop.order(customer=f"c{n}", cents=n + 1), range(48)))
        shipped = list(clients.map(lambda path: shop.until(path, "COMPLETED")["parcel"], orders))
    assert len(set(shipped)) == 48


@pytest.mark.slow
def test_it_suits_strict_type_checks(tmp_path: Path) -> None:
    files = [str(shutil.copy(file, tmp_path)) for file in EXAMPLE.glob("*.py")]
    line = [sys.executable, "-m", "mypy", "--strict", *files]
    run = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout
