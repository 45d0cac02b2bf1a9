"""--cb-postgres=container: one container a run, gone with it; and what is said where Docker is missing.

Tests marked `docker` need an engine that has the image; .ci/container.sh brings both.
"""

import gc
import json
import os
import re
import socketserver
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from typing import Any

import docker  # here: a pytester run forgets the modules that are first imported within a test
import pytest
import testcontainers.core.container  # noqa: F401

from pytest_commandbus.postgres.container import ContainerPostgres
from pytest_commandbus.postgres.errors import PostgresError

from .conftest import Suite

IMAGE = "postgres:18"
DEADLINE = 60.0
SAME_FOR_ALL = """
    @pytest.mark.parametrize("number", range(4))
    async def test_it(cb_process_batch, cb_pool, number):
        batch = await cb_process_batch(OrderProcess, count=3, processes=True, workers=1)
        await batch.complete()
        async with cb_pool.connection() as connection:
            cursor = await connection.execute("SELECT pg_postmaster_start_time()::text, current_setting('fsync')")
            print("server:", *await cursor.fetchone())
"""


@pytest.fixture
def engine() -> Iterator[Any]:
    """A client of the Docker engine that has the image; without one the test is skipped, or fails where it must run."""
    miss = pytest.fail if os.environ.get("CB_CONTAINER_TESTS") == "required" else pytest.skip
    problem = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # sockets that the client leaves open when nobody answers
        try:
            client = docker.from_env()
        except docker.errors.DockerException as error:
            problem = str(error)  # no more of it: its frames hold the sockets
        gc.collect()
    if problem is not None:
        miss(f"no Docker engine: {problem}")
    try:
        client.images.get(IMAGE)
    except docker.errors.ImageNotFound:
        client.close()
        miss(f"the Docker engine has no image {IMAGE}: docker pull {IMAGE}")
    yield client
    client.close()


def ours(engine: Any) -> list[str]:
    return [container.name for container in engine.containers.list(all=True, filters={"name": "pytest-commandbus-"})]


def gone(engine: Any, names: list[str]) -> bool:
    deadline = time.monotonic() + DEADLINE
    while set(names) & set(ours(engine)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.docker
@pytest.mark.parametrize("arguments", [(), ("-n2", "--cb-durable")], ids=["without xdist", "with xdist"])
def test_a_run_has_one_container_and_removes_it(suite: Suite, engine: Any, arguments: tuple[str, ...]):
    suite.write(SAME_FOR_ALL)
    result = suite.run_process("--cb-postgres=container", "-rP", *arguments, embedded=True)
    result.assert_outcomes(passed=4)
    servers = re.findall(r"^server: (.*) (\w+)$", result.stdout.str(), re.MULTILINE)
    assert len(servers) == 4
    assert len(set(servers)) == 1
    assert servers[0][1] == ("on" if arguments else "off")
    assert ours(engine) == []


@pytest.mark.docker
def test_only_this_machine_may_connect_and_only_by_the_password(engine: Any):
    with ContainerPostgres() as server:
        (published,) = engine.containers.get(server.name).attrs["NetworkSettings"]["Ports"]["5432/tcp"]
        assert published["HostIp"] == "127.0.0.1"
        assert "password=***" in repr(server.dsn())
        without = re.sub(r"password=\S+", "", server.dsn())
        asked = subprocess.run(
            [sys.executable, "-c", f"import psycopg; psycopg.connect({without!r})"],
            env=os.environ | {"PGPASSFILE": "/nowhere"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "password" in asked.stderr


@pytest.mark.docker
def test_a_killed_run_leaves_no_container(suite: Suite, engine: Any):
    started = suite.pytester.path / "started"
    suite.write(
        f"""
        import pathlib, time

        def test_it(cb_postgres):
            pathlib.Path({str(started)!r}).touch()
            time.sleep({DEADLINE * 2})
        """
    )
    run = suite.start("--cb-postgres=container")
    try:
        deadline = time.monotonic() + DEADLINE
        while not started.exists():
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        names = ours(engine)
        assert names
    finally:
        run.kill()
        run.wait()
    assert gone(engine, names)


@pytest.mark.docker
def test_keep_leaves_the_container_and_lines_that_work(suite: Suite, engine: Any):
    suite.write(
        """
        async def test_bad(cb_bus):
            await cb_bus.create_process_batch("orders", 5)
            assert False
        """
    )
    result = suite.run_process("--cb-postgres=container", "--cb-keep", embedded=True)
    line = next(line for line in result.outlines if "psql" in line)
    ending = next(line for line in result.outlines if line.startswith("docker rm"))
    name = ending.split()[-1]
    try:
        assert ours(engine) == [name]
        assert suite.shell(f"{line} -Atc 'TABLE commandbus.batch'").stdout.str().count("|orders|") == 1
    finally:
        engine.containers.get(name).remove(force=True, v=True)


@pytest.mark.docker
def test_an_image_that_ends_by_itself_is_told_with_its_log(engine: Any):
    recipe = BytesIO(f'FROM {IMAGE}\nENTRYPOINT ["/bin/cat", "/etc/passwd", "/no/such/file"]\n'.encode())
    image, _ = engine.images.build(fileobj=recipe, tag="pytest-commandbus-test:ends", rm=True)
    try:
        with pytest.raises(
            PostgresError, match=r"of 'pytest-commandbus-test:ends' ended by itself\.[^\n]*\n/bin/cat: "
        ):
            ContainerPostgres("pytest-commandbus-test:ends").start()
        assert ours(engine) == []
    finally:
        engine.images.remove(image.id, force=True)


# without an engine


@contextmanager
def docker_that_has_no_image(socket: Path) -> Iterator[None]:
    """What an engine answers that finds an image neither at home nor in its registry."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith("/version"):
                self.answer(200, {"ApiVersion": "1.44", "Version": "25", "Platform": {"Name": "test"}})
            else:
                self.answer(404, {"message": f"No such image: {self.path}"})

        def do_POST(self) -> None:
            self.answer(404, {"message": "pull access denied for acme/postgres, repository does not exist"})

        def answer(self, status: int, body: dict[str, Any]) -> None:
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def address_string(self) -> str:
            return "a client"

        def log_message(self, *_: Any) -> None:
            pass

    with socketserver.ThreadingUnixStreamServer(str(socket), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("arguments", [(), ("-n2",)], ids=["without xdist", "with xdist"])
def test_no_engine_says_how_to_start_one(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: tuple[str, ...]
):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    suite.write("def test_it(cb_postgres):\n    pass\n\nasync def test_other(cb_bus):\n    pass\n", head="")
    result = suite.run_process("--cb-postgres=container", *arguments, embedded=True)
    result.assert_outcomes(errors=2)
    message = (
        f"--cb-postgres=container: no Docker engine can be used: nothing answers at unix://{tmp_path}/docker.sock. "
        "Start Docker (sudo systemctl start docker, or Docker Desktop), or name an engine by DOCKER_HOST, or use "
        "--cb-postgres=embedded, which needs no Docker"
    )
    assert result.outlines.count(message) == 2
    assert "resolve.py" not in result.stdout.str()


def test_a_refused_connection_is_no_engine_either(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
    with pytest.raises(PostgresError, match=r"nothing answers at tcp://127\.0\.0\.1:1\. Start Docker"):
        ContainerPostgres().start()


AS_NOBODY = """
import os, sys, warnings
from testcontainers.core.container import DockerContainer
import docker.errors, requests.exceptions
from pytest_commandbus.postgres.container import ContainerPostgres
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    ContainerPostgres().start()
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_denied_socket_says_how_to_get_at_it(tmp_path: Path):
    socket = tmp_path / "docker.sock"
    with socketserver.UnixStreamServer(str(socket), BaseHTTPRequestHandler):
        socket.chmod(0)
        tmp_path.chmod(0o755)
        told = subprocess.run(
            [sys.executable, "-c", AS_NOBODY],
            env=os.environ | {"DOCKER_HOST": f"unix://{socket}"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert told.stdout.startswith(
        "PostgresError --cb-postgres=container: no Docker engine can be used: "
        f"permission to use unix://{socket} is denied. Let your account use Docker "
        "(sudo usermod -aG docker $USER, then log in again), or run Docker rootless"
    ), told.stderr


def test_an_image_that_cannot_be_pulled_says_which_option_names_another(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    suite.write("def test_it(cb_postgres):\n    pass\n", head="")
    with docker_that_has_no_image(tmp_path / "docker.sock"):
        result = suite.run_process("--cb-postgres=container", "-o", "cb_container_image=acme/postgres:9", embedded=True)
    assert (
        "--cb-postgres=container: the image 'acme/postgres:9' cannot be pulled: pull access denied for acme/postgres, "
        'repository does not exist. Name one that can (cb_container_image = "postgres:18" in the configuration), fetch '
        "it beforehand (docker pull acme/postgres:9), or use --cb-postgres=embedded"
    ) in result.stdout.str()


def test_without_testcontainers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "testcontainers", None)
    for name in [name for name in sys.modules if name.startswith("testcontainers.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(
        PostgresError, match=r"needs testcontainers \(.*\): pip install 'pytest-commandbus\[container\]'"
    ):
        ContainerPostgres().start()
