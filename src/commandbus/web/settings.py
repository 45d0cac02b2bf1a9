"""What one may set of a console, and the rule that nobody else's machine sees one without authentication."""

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import token_urlsafe

from starlette.requests import HTTPConnection

from commandbus.errors import CommandBusError
from commandbus.web.passwords import Users

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

Auth = Users | Callable[[HTTPConnection], str | None]


class NotAuthenticatedError(CommandBusError):
    """A console that other machines can reach was to be made without authentication."""

    def __init__(self, reached_by: str) -> None:
        self.reached_by = reached_by
        super().__init__(
            f"a console at {reached_by!r} could be reached from other machines by anybody: set auth "
            "(on the command line --users FILE), or stay with 127.0.0.1"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleSettings:
    """What one may set of a console.

    `allowed_hosts` are the names that a Host header may have, without ports. `auth` is None (loopback only), `Users`
    who sign in, or a function that gives the operator's name of a request that something before the console has
    authenticated, None for nobody. `secret` signs cookies: with the same one several processes and restarts know them.
    `max_sockets` streams are open at a time, a request body has `max_body` bytes at most, and one bulk action touches
    `max_bulk` commands at most. `session_hours` after signing in one signs in again. `secure_cookies` says that
    browsers reach the console by https only.

    Raises NotAuthenticatedError for another host than this machine without `auth`, ValueError for limits below 1.
    """

    title: str = "Command bus"
    allowed_hosts: tuple[str, ...] = LOOPBACK
    auth: Auth | None = None
    secret: str = field(default_factory=lambda: token_urlsafe(32), repr=False)
    operator: str = "console"
    secure_cookies: bool = False
    session_hours: float = 12.0
    max_sockets: int = 100
    max_body: int = 1_048_576
    max_bulk: int = 100_000

    def __post_init__(self) -> None:
        if self.auth is None:
            for host in self.allowed_hosts:
                require_loopback(host)
        if len(self.secret) < 16:
            raise ValueError("secret must have at least 16 characters, since it signs the cookies")
        for name in ("session_hours", "max_sockets", "max_body", "max_bulk"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


def is_loopback(host: str) -> bool:
    """Whether an address or host name leads to this machine only."""
    if host.casefold() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def require_loopback(host: str) -> None:
    """Raise NotAuthenticatedError unless `host` leads to this machine only."""
    if not is_loopback(host):
        raise NotAuthenticatedError(host)
