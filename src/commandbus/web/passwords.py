"""Users of the console and their passwords, which are kept as scrypt hashes only."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path
from secrets import token_bytes
from typing import Self

_COST = 2**14  # with 8 blocks 16 MB and some 50 ms for each try
_KEY = 32
_SHORTEST = 8


def hash_password(password: str) -> str:
    """Return what is kept of a password: `scrypt$salt$key`. Raises ValueError for one with fewer than 8 characters."""
    if len(password) < _SHORTEST:
        raise ValueError(f"a password has at least {_SHORTEST} characters")
    salt = token_bytes(16)
    return f"scrypt${_text(salt)}${_text(_key(password, salt))}"


class Users:
    """Who may sign in: names, and the hashes that `hash_password` makes. Raises ValueError for anything else."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        if not hashes:
            raise ValueError("no user is named, so nobody could sign in")
        self._users = {name: _parsed(name, kept) for name, kept in hashes.items()}
        self._nobody = (token_bytes(16), token_bytes(_KEY))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of lines `name:hash`; empty lines and those that begin with # say nothing."""
        hashes: dict[str, str] = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, colon, kept = line.strip().partition(":")
            if not colon:
                raise ValueError(f"{path}, line {number}: write name:hash, as `commandbus console-password` prints it")
            hashes[name] = kept
        return cls(hashes)

    def __contains__(self, name: object) -> bool:
        return name in self._users

    def check(self, name: str, password: str) -> bool:
        """Whether it is the password of that user; takes as long (some 50 ms) for a user that does not exist."""
        salt, key = self._users.get(name, self._nobody)
        return hmac.compare_digest(_key(password, salt), key)


def _parsed(name: str, kept: str) -> tuple[bytes, bytes]:
    try:
        kind, salt, key = kept.split("$")
        found = base64.urlsafe_b64decode(salt), base64.urlsafe_b64decode(key)
    except ValueError:
        kind, found = "", (b"", b"")
    if kind != "scrypt" or len(found[1]) != _KEY or not name:
        raise ValueError(f"user {name!r} has no hash as `commandbus console-password` prints it")
    return found


def _key(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, n=_COST, r=8, p=1, dklen=_KEY)


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()
