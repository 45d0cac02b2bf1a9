"""PostgreSQL in a container, through testcontainers: for tests on an image of one's own choice."""

import gc
import os
import secrets
import subprocess
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

from . import container_watchdog
from .cluster import SUPERUSER, server_settings
from .dsn import Dsn
from .errors import PostgresError
from .watchdog import DETACH

if TYPE_CHECKING:
    from testcontainers.core.container import DockerContainer

DEFAULT_IMAGE = "postgres:18"
PORT = 5432
START_SECONDS = 120.0
_OLDEST_MAJOR = 15  # whose settings every image knows
_POLL_SECONDS = 0.1
_LOG_TAIL = 2000
_LOCAL = ("localhost", "127.0.0.1")
_OTHER_WAYS = "or use --cb-postgres=embedded, which needs no Docker"


class ContainerPostgres:
    """One server in a container of `image`, which takes POSTGRES_USER and POSTGRES_PASSWORD as the official ones do.

    durable: with fsync and full_page_writes on. However this process ends, the container is removed; its superuser's
    password is drawn anew for each. Errors: PostgresError, which says what Docker lacks.
    """

    def __init__(self, image: str = DEFAULT_IMAGE, *, durable: bool = False) -> None:
        self.image = image
        self.name = f"pytest-commandbus-{secrets.token_hex(6)}"
        self._settings = server_settings(major=_OLDEST_MAJOR, durable=durable, crash_safe=False, in_memory=False)
        self._password = secrets.token_hex(16)
        self._container: DockerContainer | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._address: tuple[str, int] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def dsn(self, database: str = "postgres") -> Dsn:
        """Return a connection string for one database as the superuser."""
        from psycopg.conninfo import make_conninfo

        if self._address is None:
            raise PostgresError("the container is not started: call start() first")
        host, port = self._address
        return Dsn(make_conninfo(host=host, port=port, user=SUPERUSER, password=self._password, dbname=database))

    def start(self) -> None:
        """Start the container; return when the server accepts connections."""
        container = self._make()
        self._container = container
        try:
            self._have_image(container)
            self._watchdog = container_watchdog.start(self.name)
            with _docker_errors("the container could not be started"), _without_reaper():
                container.start()
            self._wait_until_ready(container)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Remove the container, and with it all data."""
        from docker.errors import DockerException

        container, self._container = self._container, None
        word = b""  # on which the watchdog removes it, or tries once more
        if container is not None:
            with suppress(DockerException):
                container.stop()
                word = DETACH
        self._release_watchdog(word)
        self._address = None

    def detach(self) -> str:
        """Let the container go on after this process has ended; return the shell line that ends and removes it."""
        if self._container is None:
            raise PostgresError("the container does not run, so it cannot be left running")
        self._release_watchdog(DETACH)
        self._container.get_docker_client().client.close()
        self._container = None
        return f"docker rm --force --volumes {self.name}"

    def _make(self) -> "DockerContainer":
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what Docker's client deprecates is none of the tests' business
                from testcontainers.core.container import DockerContainer
        except ImportError as error:
            raise PostgresError(
                f"--cb-postgres=container needs testcontainers ({error}): pip install 'pytest-commandbus[container]', "
                f"{_OTHER_WAYS}"
            ) from None
        options = [word for name, value in self._settings.items() for word in ("-c", f"{name}={value}")]
        with _docker_errors("no Docker engine can be used"):
            container = DockerContainer(self.image, command=["postgres", *options], name=self.name)  # type: ignore[arg-type]
            container.with_env("POSTGRES_USER", SUPERUSER).with_env("POSTGRES_PASSWORD", self._password)
            container.with_exposed_ports(PORT)
            client = container.get_docker_client()
            if client.get_connection_mode().value == "docker_host" and client.host() in _LOCAL:
                container.ports[str(PORT)] = ("127.0.0.1", None)  # type: ignore[assignment]  # only this machine may ask
        return container

    def _have_image(self, container: "DockerContainer") -> None:
        from docker.errors import APIError, ImageNotFound

        images = container.get_docker_client().client.images
        try:
            images.get(container.image)
        except ImageNotFound:
            try:
                images.pull(container.image)
            except APIError as error:
                raise PostgresError(
                    f"--cb-postgres=container: the image {container.image!r} cannot be pulled: {_said(error)}. Name "
                    f'one that can (cb_container_image = "postgres:18" in the configuration), fetch it beforehand '
                    f"(docker pull {container.image}), {_OTHER_WAYS}"
                ) from None

    def _wait_until_ready(self, container: "DockerContainer") -> None:
        import psycopg

        wrapped, deadline = container.get_wrapped_container(), time.monotonic() + START_SECONDS
        try:
            with _docker_errors("the container cannot be reached"):
                self._address = (container.get_container_host_ip(), int(container.get_exposed_port(PORT)))
        except PostgresError:
            self._refuse_ended(wrapped)
            raise
        while True:
            try:
                psycopg.connect(self.dsn(), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                refused = str(error).strip()
            self._refuse_ended(wrapped)
            if time.monotonic() > deadline:
                raise PostgresError(
                    f"PostgreSQL in the container of {self.image!r} was not ready after {START_SECONDS:g} s: "
                    f"{refused}. Where pytest itself runs in a container, TESTCONTAINERS_CONNECTION_MODE says how to "
                    f"reach others. The container's log:\n{_log(wrapped)}"
                )
            time.sleep(_POLL_SECONDS)

    def _refuse_ended(self, wrapped: Any) -> None:
        wrapped.reload()
        if wrapped.status in ("exited", "dead"):
            raise PostgresError(
                f"the container of {self.image!r} ended by itself. It must take what the official image postgres does. "
                f"Its log:\n{_log(wrapped)}"
            ) from None

    def _release_watchdog(self, word: bytes) -> None:
        watchdog, self._watchdog = self._watchdog, None
        if watchdog is not None:
            watchdog.communicate(word)


def _log(wrapped: Any) -> str:
    return str(wrapped.logs(tail=50).decode(errors="replace"))[-_LOG_TAIL:].strip()


@contextmanager
def _without_reaper() -> Iterator[None]:
    """Start no container of testcontainers' own beside ours: the watchdog does what it would, and lets go when told."""
    from testcontainers.core.config import testcontainers_config as config

    disabled, config.ryuk_disabled = config.ryuk_disabled, True
    try:
        yield
    finally:
        config.ryuk_disabled = disabled


@contextmanager
def _docker_errors(what: str) -> Iterator[None]:
    """Turn what Docker's client raises into a PostgresError that says how to mend it."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except (DockerException, RequestException, OSError) as error:
        problem = PostgresError(f"--cb-postgres=container: {what}: {_mending(error)}, {_OTHER_WAYS}")
        _let_go(error)
        raise problem from None


def _let_go(error: BaseException) -> None:
    """Free the sockets that the client left open when it failed, here rather than in somebody's test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        for cause in _causes(error):
            traceback.clear_frames(cause.__traceback__)
        gc.collect()


def _mending(error: BaseException) -> str:
    where = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    causes = list(_causes(error))
    if any(isinstance(cause, PermissionError) for cause in causes):
        return (
            f"permission to use {where} is denied. Let your account use Docker (sudo usermod -aG docker $USER, then "
            "log in again), or run Docker rootless and name its socket by DOCKER_HOST"
        )
    if any(isinstance(cause, FileNotFoundError | ConnectionRefusedError) for cause in causes):
        return (
            f"nothing answers at {where}. Start Docker (sudo systemctl start docker, or Docker Desktop), or name an "
            "engine by DOCKER_HOST"
        )
    return f"{_said(error)}. Does `docker run --rm hello-world` work here? DOCKER_HOST names another engine"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all that it arose from: the client wraps the one that tells in others' arguments."""
    seen: set[int] = set()
    todo: list[object] = [error]
    while todo:
        found = todo.pop()
        if isinstance(found, BaseException) and id(found) not in seen:
            seen.add(id(found))
            yield found
            todo += [found.__cause__, found.__context__, *found.args]


def _said(error: BaseException) -> str:
    text = getattr(error, "explanation", None) or error
    return str(text).strip().rstrip(".")
