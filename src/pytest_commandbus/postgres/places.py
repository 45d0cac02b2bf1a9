"""Chooses where a server keeps its data and its socket."""

import os
import re
import tempfile
from pathlib import Path

from .account import Account
from .errors import PostgresError

# All of these are entered only through mkdtemp, which makes a private directory of a new name.
MEMORY = Path("/dev/shm")  # noqa: S108
ON_DISK = Path("/var/tmp")  # noqa: S108
SHORT = Path("/tmp")  # noqa: S108
MEMORY_NEEDED = 4 << 30
"""Bytes that must be free in memory before data goes there."""

SOCKET_PATH_LIMIT = 100
"""Bytes that a socket's whole path may have, its file name included; the system's limit is 104 to 108."""

_PREFIX = "cb-pg-"
_PLAIN = re.compile(r"[A-Za-z0-9/_.-]+\Z")
_SOCKET_NAME = "/.s.PGSQL.65535.lock"


def make_data_home(account: Account, *, durable: bool) -> tuple[Path, bool]:
    """Create a directory for one server; return it and whether it is in memory."""
    if not durable and _free_bytes(MEMORY) > MEMORY_NEEDED and account.reaches(MEMORY):
        try:
            return _make(MEMORY, account), True
        except OSError:
            pass
    temporary = Path(tempfile.gettempdir())
    places = [temporary, SHORT, ON_DISK]
    if durable and not os.environ.get("TMPDIR"):
        places.insert(0, ON_DISK)  # /tmp may be in memory
    return _make_in_first(places, account, "the server's data"), False


def make_socket_directory(home: Path, account: Account) -> Path:
    """Create a private directory for the socket, with a path that every client can name: in `home` if that is short."""
    inside = home / "socket"
    if _is_plain(inside):
        inside.mkdir(mode=0o700)
        account.own(inside)
        return inside
    places = [Path(tempfile.gettempdir()), SHORT, ON_DISK, MEMORY]
    plain = [place for place in places if _is_plain(place / (_PREFIX + "12345678"))]
    return _make_in_first(plain, account, "the server's socket")


def _is_plain(directory: Path) -> bool:
    path = str(directory)
    return len(path.encode()) + len(_SOCKET_NAME) < SOCKET_PATH_LIMIT and _PLAIN.match(path) is not None


def _make_in_first(places: list[Path], account: Account, purpose: str) -> Path:
    for place in places:
        if account.reaches(place):
            try:
                return _make(place, account)
            except OSError:
                continue
    raise PostgresError(
        f"no directory for {purpose}: none of {', '.join(map(str, places))} can be written here "
        "and entered by the server's account; set TMPDIR to one that can"
    )


def _make(place: Path, account: Account) -> Path:
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    account.own(directory)
    return directory


def _free_bytes(directory: Path) -> int:
    try:
        status = os.statvfs(directory)
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize
