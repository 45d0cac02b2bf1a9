"""The embedded server: starts wherever pytest runs, survives a crash with its data, and leaves nothing behind."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pytest_commandbus.postgres import places, watchdog
from pytest_commandbus.postgres.account import Account, server_account
from pytest_commandbus.postgres.binaries import PACKAGE, find_binaries
from pytest_commandbus.postgres.cluster import server_settings
from pytest_commandbus.postgres.errors import PostgresError
from pytest_commandbus.postgres.server import EmbeddedPostgres

DEADLINE_SECONDS = 20.0

pytestmark = pytest.mark.usefixtures("measured")

OWNER = """
import sys, threading
from pytest_commandbus.postgres.server import EmbeddedPostgres
server = EmbeddedPostgres()
server.start()
print(server.pid, server.home, server.data, sep="|", flush=True)
if sys.argv[1] == "detach":
    print(server.detach(), flush=True)
else:
    threading.Event().wait()
"""


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A directory near the root that every account may enter, unlike pytest's own temporary directories."""
    directory = Path(tempfile.mkdtemp(prefix="cb-test-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def query(dsn: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def segment_of(data: Path) -> int:
    return int(watchdog.read_postmaster_file(data)[6].split()[1])


def segments() -> set[int]:
    rows = Path("/proc/sysvipc/shm").read_text(encoding="ascii").splitlines()[1:]
    return {int(row.split()[1]) for row in rows}


def owner_process(what: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", OWNER, what], stdout=subprocess.PIPE, text=True)


def answers(process: subprocess.Popen[str]) -> tuple[int, Path, Path]:
    assert process.stdout is not None
    pid, home, data = process.stdout.readline().strip().split("|")
    return int(pid), Path(home), Path(data)


def test_starts_answers_and_leaves_nothing() -> None:
    with EmbeddedPostgres() as server:
        home, pid, segment = server.home, server.pid, segment_of(server.data)
        assert pid is not None
        assert query(server.dsn(), "SELECT 1") == [(1,)]
        assert segment in segments()
    assert not home.exists()
    assert watchdog.wait_gone([pid], 0)
    assert segment not in segments()
    assert server.pid is None


def test_settings_are_for_tests_and_can_be_overridden() -> None:
    with EmbeddedPostgres(settings={"work_mem": "7MB", "cluster_name": r"it's a \ name"}) as server:
        shown = {
            name: query(server.dsn(), f"SHOW {name}")[0][0]
            for name in ("fsync", "full_page_writes", "synchronous_commit", "jit", "work_mem", "listen_addresses")
        }
        assert shown == {
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "on",
            "jit": "off",
            "work_mem": "7MB",
            "listen_addresses": "",
        }
        assert query(server.dsn(), "SHOW cluster_name") == [(r"it's a \ name",)]


def test_durable_is_on_disk_with_all_safety_on() -> None:
    with EmbeddedPostgres(durable=True) as server:
        assert not server.home.is_relative_to(places.MEMORY)
        for name in ("fsync", "full_page_writes", "synchronous_commit"):
            assert query(server.dsn(), f"SHOW {name}") == [("on",)], name


@pytest.mark.parametrize(("gib", "expected"), [(0.5, "128MB"), (2, "256MB"), (64, "512MB")])
def test_a_durable_server_keeps_an_eighth_of_the_memory_for_its_tables(
    monkeypatch: pytest.MonkeyPatch, gib: float, expected: str
) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": int(gib * 2**30) // 4096}.__getitem__)
    settings = server_settings(major=18, durable=True, crash_safe=False, in_memory=False)
    assert (settings["shared_buffers"], settings["max_wal_size"]) == (expected, "2GB")


def test_root_drops_to_an_unprivileged_account() -> None:
    with EmbeddedPostgres() as server:
        owner = Path(f"/proc/{server.pid}").stat().st_uid
    assert owner != 0
    assert owner == (server_account().uid or os.geteuid())


PLAIN_USER = """
import os, sys
sys.path[:0] = {paths!r}
from pytest_commandbus.postgres.server import EmbeddedPostgres
with EmbeddedPostgres() as server:
    print("uid", os.stat(f"/proc/{{server.pid}}").st_uid)
"""


def run_as_nobody(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": "/nonexistent", "PATH": os.environ["PATH"]}
    identity = {"user": 65534, "group": 65534, "extra_groups": []}
    return subprocess.run(
        command,
        **identity,
        env=environment,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,  # type: ignore[call-overload]
    )


def interpreter_for_everybody() -> str:
    """Return a Python of this version that the account nobody can run; pytest's own may be in root's home."""
    for path in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        with contextlib.suppress(OSError):
            version = run_as_nobody(path, "-c", "import sys; print(*sys.version_info[:2])").stdout
            if version.split() == [str(number) for number in sys.version_info[:2]]:
                return path
    pytest.skip("no Python of this version that the account nobody can run")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_starts_as_a_plain_user_without_a_home() -> None:
    done = run_as_nobody(interpreter_for_everybody(), "-c", PLAIN_USER.format(paths=sys.path))
    assert done.stderr == ""
    assert done.stdout == "uid 65534\n"


@pytest.mark.parametrize("name", ["with two spaces, a comma and ünicode", "long-" * 30])
def test_starts_under_any_temporary_directory(
    name: str, short_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    awkward = short_directory / name
    awkward.mkdir(mode=0o755)
    server_account().own(awkward)
    monkeypatch.setattr(tempfile, "tempdir", str(awkward))
    monkeypatch.setattr(places, "MEMORY_NEEDED", 1 << 60)
    with EmbeddedPostgres() as server:
        assert server.home.parent == awkward
        assert query(server.dsn(), "SELECT 1") == [(1,)]
        socket_directory = Path(psycopg.conninfo.conninfo_to_dict(server.dsn())["host"])
        assert len(bytes(socket_directory / ".s.PGSQL.5432")) < places.SOCKET_PATH_LIMIT
        assert socket_directory.stat().st_mode & 0o777 == 0o700
    assert not socket_directory.exists()
    assert list(awkward.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts the server as another account")
def test_programs_that_the_account_cannot_read_are_copied(
    short_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CB_POSTGRES_PROGRAMS", raising=False)
    private = short_directory / "private"
    private.mkdir(mode=0o700)
    account = server_account()
    installed = find_binaries(Account()).directory.parents[2]
    for part in (PACKAGE, PACKAGE + ".libs"):
        shutil.copytree(installed / part, private / part)
    cache = short_directory / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr("pytest_commandbus.postgres.binaries._package_directory", lambda: private / PACKAGE)
    with EmbeddedPostgres(tcp=True) as server:  # psql needs the libraries beside the programs
        assert server.binaries.directory.is_relative_to(cache)
        assert query(server.dsn(), "SELECT 1") == [(1,)]
    assert find_binaries(account) == server.binaries


def test_the_environment_names_other_programs(short_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = find_binaries(server_account())
    monkeypatch.setenv("CB_POSTGRES_PROGRAMS", str(usual.directory / ".." / "bin"))
    assert find_binaries(server_account()).directory.samefile(usual.directory)
    monkeypatch.setenv("CB_POSTGRES_PROGRAMS", str(short_directory))
    with pytest.raises(PostgresError, match="can run no PostgreSQL program in"):
        EmbeddedPostgres().start()


def test_a_crash_keeps_committed_rows_and_a_restart_too() -> None:
    with EmbeddedPostgres(crash_safe=True) as server:
        assert query(server.dsn(), "SHOW full_page_writes") == [("on",)]
        query(server.dsn(), "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
        open_session = psycopg.connect(server.dsn())
        first, segment = server.pid, segment_of(server.data)
        server.crash()
        assert server.pid is None
        assert segment not in segments()
        with pytest.raises(psycopg.OperationalError):
            open_session.execute("SELECT 1")
        with pytest.raises(PostgresError, match="does not run"):
            server.crash()
        server.start()
        assert server.pid != first
        assert query(server.dsn(), "SELECT count(*) FROM kept") == [(1000,)]
        server.restart()
        assert query(server.dsn(), "SELECT count(*) FROM kept") == [(1000,)]


def test_tcp_asks_for_the_password() -> None:
    with EmbeddedPostgres(tcp=True) as server:
        dsn = server.dsn(tcp=True)
        assert query(dsn, "SELECT inet_server_addr() = '127.0.0.1'") == [(True,)]
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(psycopg.conninfo.make_conninfo(dsn, password="wrong"))
        server.crash()
        server.start()
        assert query(dsn, "SELECT 1") == [(1,)]


def test_tcp_is_off_unless_asked_for() -> None:
    with EmbeddedPostgres() as server, pytest.raises(PostgresError, match="tcp=True"):
        server.dsn(tcp=True)


def test_a_wrong_setting_is_told_with_the_log_and_leaves_nothing() -> None:
    before = set(places.MEMORY.glob("cb-pg-*"))
    server = EmbeddedPostgres(settings={"shared_buffers": "much"})
    with pytest.raises(PostgresError, match='invalid value for parameter "shared_buffers"') as raised:
        server.start()
    home = Path(str(raised.value).split(" in ")[1].split(" ended")[0])
    assert not home.exists()
    assert home not in before


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_dies_with_its_owner(fault: signal.Signals) -> None:
    with owner_process("wait") as owner:
        pid, home, data = answers(owner)
        segment = segment_of(data)
        assert watchdog.postmaster_pid(data) == pid
        owner.send_signal(fault)
    wait_until(lambda: not home.exists())
    assert watchdog.wait_gone([pid], 0)
    assert segment not in segments()


def test_a_frozen_server_dies_with_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    with owner_process("wait") as owner:
        pid, home, data = answers(owner)
        segment = segment_of(data)
        family = [pid, *watchdog.children_of(pid)]
        os.kill(pid, signal.SIGSTOP)
        owner.kill()
    wait_until(lambda: not home.exists())
    assert watchdog.wait_gone(family, 0)
    assert segment not in segments()


def test_a_forked_child_of_the_owner_does_not_keep_the_server() -> None:
    script = OWNER.replace(
        "threading.Event().wait()", "import os\n    os.fork() and os.kill(os.getpid(), 9)\n    input()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pid, home, _ = answers(owner)
    owner.wait()
    wait_until(lambda: not home.exists())
    assert watchdog.wait_gone([pid], 0)
    owner.communicate()  # ends the child, which held the pipe until now


def test_a_detached_server_goes_on_and_its_line_ends_it() -> None:
    with owner_process("detach") as owner:
        pid, home, _ = answers(owner)
        assert owner.stdout is not None
        line = owner.stdout.readline()
    assert not watchdog.wait_gone([pid], 1.0)
    assert home.exists()
    subprocess.run(["sh", "-c", line], check=True)
    assert watchdog.wait_gone([pid], DEADLINE_SECONDS)
    assert not home.exists()


def test_a_process_that_took_over_the_number_is_not_the_server(tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").write_text(f"{os.getpid()}\n{tmp_path}\n")
    assert watchdog.postmaster_pid(tmp_path) is None
