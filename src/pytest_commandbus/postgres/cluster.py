"""Makes a data directory: initdb once into a cache, then a copy of it with the settings of the server."""

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from .account import Account
from .binaries import Binaries, cache_directories, publish
from .errors import PostgresError

SUPERUSER = "postgres"
INITDB_OPTIONS = ("--no-sync", "--no-instructions", "-A", "trust", "-E", "UTF8", "--locale=C", "-U", SUPERUSER)

_BASE_SETTINGS = {
    # As many tests run at once as there are processors, each with workers that have connections of their own.
    "max_connections": str(max(200, 60 + 60 * (os.cpu_count() or 1))),
    "shared_buffers": "128MB",
    "huge_pages": "off",
    # A file in the data directory goes with it; POSIX segments would outlive a killed server.
    "dynamic_shared_memory_type": "mmap",
    "synchronous_commit": "on",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    # Tests are short: a queue table must be vacuumed within them, by few processes.
    "autovacuum_naptime": "10s",
    "autovacuum_max_workers": "2",
}
_FAST = {"fsync": "off", "full_page_writes": "off"}
_DURABLE = {"fsync": "on", "full_page_writes": "on", "max_wal_size": "2GB"}  # no checkpoint amid a load test
_IN_MEMORY = {"max_wal_size": "256MB"}
_MB = 1 << 20


def server_settings(
    *, major: int, durable: bool, crash_safe: bool, in_memory: bool, extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the settings of a test server, `extra` last: names and values of postgresql.conf."""
    settings = _BASE_SETTINGS | (_DURABLE | {"shared_buffers": _buffers()} if durable else _FAST)
    if crash_safe:
        settings["full_page_writes"] = "on"
    if in_memory:
        settings |= _IN_MEMORY
    if major >= 18:
        settings["io_method"] = "sync"  # all data is in memory: worker processes for reading only cost
    return settings | dict(extra or {})


def _buffers() -> str:
    """For the tables of a load test, which are read again for each step: an eighth of the memory, 128 to 512 MB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{min(max(memory // 8 // _MB, 128), 512)}MB"


def make_cluster(
    data: Path, binaries: Binaries, account: Account, settings: Mapping[str, str], *, sync: bool, host_lines: str = ""
) -> None:
    """Create the data directory `data`, owned by the account, with these settings in its postgresql.conf."""
    cached = _cached_cluster(binaries, account)
    if cached is not None and cached.is_dir():
        _copy_tree(cached, data, account)
    else:
        _initdb(data, binaries, account)
        if cached is not None:
            _keep_in_cache(data, cached)
    with (data / "postgresql.conf").open("a", encoding="utf-8") as conf:
        conf.writelines(f"{name} = {_quoted(value)}\n" for name, value in settings.items())
    if host_lines:
        (data / "pg_hba.conf").write_text(f"local all all trust\n{host_lines}\n", encoding="utf-8")
    if sync:
        _run([binaries.program("initdb"), "--sync-only", "-D", str(data)], account, data.parent)


def make_standby(
    data: Path, binaries: Binaries, account: Account, settings: Mapping[str, str], *, primary: str
) -> None:
    """Make `data` a copy of the running server at the connection string `primary`, which it is to follow."""
    data.mkdir(mode=0o700)
    account.own(data)
    copy = [binaries.program("pg_basebackup"), "-D", str(data), "-d", primary, "-R", "-X", "stream", "-c", "fast"]
    _run([*copy, "--no-sync"], account, data.parent)
    with (data / "postgresql.conf").open("a", encoding="utf-8") as conf:
        conf.writelines(f"{name} = {_quoted(value)}\n" for name, value in settings.items())


def _quoted(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


def _cache_name(binaries: Binaries) -> str:
    programs = (binaries.directory / "initdb").stat()
    key = repr((binaries.version, INITDB_OPTIONS, programs.st_size, programs.st_mtime_ns))
    return f"cluster-{binaries.version}-{hashlib.blake2b(key.encode(), digest_size=6).hexdigest()}"


def _cached_cluster(binaries: Binaries, account: Account) -> Path | None:
    """Return where the cached data directory stands, or is to stand; None without a cache."""
    cache = next(cache_directories(account), None)
    return cache / _cache_name(binaries) if cache is not None else None


def _initdb(data: Path, binaries: Binaries, account: Account) -> None:
    _run([binaries.program("initdb"), *INITDB_OPTIONS, "-D", str(data)], account, data.parent)


def _run(command: list[str], account: Account, folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **account.identity,
    )
    if done.returncode != 0:
        raise PostgresError(f"{Path(command[0]).name} failed in {folder}: {(done.stderr or done.stdout).strip()}")


def _keep_in_cache(data: Path, cached: Path) -> None:
    """Keep a copy for the next start; a cache that cannot be written only costs time."""
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=cached.parent, prefix="making-") as making:
        half = Path(making, "cluster")
        _copy_tree(data, half, Account())
        publish(half, cached)


def _copy_tree(source: Path, target: Path, account: Account) -> None:
    """Copy a data directory, private to the account; a third of shutil.copytree's time, which counts at every start."""
    target.mkdir(mode=0o700)
    account.own(target)
    with os.scandir(source) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _copy_tree(Path(entry.path), target / entry.name, account)
            else:
                original, copy = Path(entry.path), target / entry.name
                with original.open("rb", buffering=0) as reader, copy.open("xb", buffering=0) as writer:
                    os.fchmod(writer.fileno(), 0o600)
                    account.own(writer.fileno())
                    shutil.copyfileobj(reader, writer, 1 << 20)
