"""Which operating system account runs the server, and which directories that account can reach."""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from .errors import PostgresError

UNPRIVILEGED_ACCOUNTS = ("postgres", "nobody")


class PopenIdentity(TypedDict, total=False):
    """The arguments of subprocess that say who the child runs as."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Account:
    """Who the server runs as: ourselves (`uid` is None), or the account that root drops to."""

    uid: int | None = None
    gid: int | None = None

    @property
    def identity(self) -> PopenIdentity:
        """What to pass to subprocess.run or Popen; empty when the server runs as ourselves."""
        if self.uid is None or self.gid is None:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path | int) -> None:
        """Give a path or an open file to the account."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)

    def reaches(self, directory: Path) -> bool:
        """Tell whether the account can enter this directory from the root down."""
        if self.uid is None:
            return os.access(directory, os.X_OK)
        directory = directory.resolve()
        try:
            return all(_others_enter(step, self.uid) for step in (directory, *directory.parents))
        except OSError:
            return False


def _others_enter(directory: Path, uid: int) -> bool:
    status = directory.stat()
    return bool(status.st_mode & (stat.S_IXUSR if status.st_uid == uid else stat.S_IXOTH))


def server_account() -> Account:
    """Return the account for the server: PostgreSQL refuses to run as root, so root picks an unprivileged one."""
    if os.geteuid() != 0:
        return Account()
    for name in UNPRIVILEGED_ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise PostgresError(
        f"PostgreSQL does not run as root, and none of the accounts {', '.join(UNPRIVILEGED_ACCOUNTS)} exists here: "
        "run pytest as another user, or add one of them (useradd --system postgres)"
    )
