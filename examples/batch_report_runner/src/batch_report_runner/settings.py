"""What can be set, each by an environment variable."""

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

DEMO_USER = "demo"
_RATES = Path(__file__).with_name("rates.json")


def _secret() -> str:
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Times are in seconds, money in the currency of the rates.

    The secret signs the tokens of sockets: without BATCH_SECRET those of one process are no good in another.
    """

    enabled: bool = True
    data: Path = Path("var")
    users: Mapping[str, str] = field(default_factory=dict)  # token -> name
    secret: str = field(default_factory=_secret)
    rates: Path = _RATES
    rates_ttl: float = 300.0
    daily_budget: Decimal = Decimal("5000")
    parallel: int = 20
    worker_niceness: int = 5  # 0 to 19, as `nice` counts
    time_limit: float = 1800.0
    token_lifetime: float = 900.0
    starts_per_minute: int = 10
    previews_per_minute: int = 120
    sockets_per_user: int = 50
    retain_days: float = 30.0
    max_body: int = 262_144
    cors_origins: tuple[str, ...] = ()
    trusted_proxies: str = "127.0.0.1"
    provider_latency: float = 0.05
    provider_failure_pct: float = 0.0
    smtp_host: str = "127.0.0.1"
    smtp_port: int = 25
    smtp_timeout: float = 10.0
    mail_from: str = "reports@localhost"
    mail_to: str = "operations@localhost"
    public_url: str = "http://127.0.0.1:8090"

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Read ENABLE_BATCH_PROCESSING, and each other field as BATCH_ and its name. ValueError names what is wrong."""
        found: dict[str, object] = {}
        for name in cls.__dataclass_fields__:
            variable = "ENABLE_BATCH_PROCESSING" if name == "enabled" else f"BATCH_{name.upper()}"
            if (text := environ.get(variable)) is not None:
                try:
                    found[name] = _READ.get(name, _by_default)(text, name)
                except (ValueError, ArithmeticError) as error:
                    raise ValueError(f"{variable}={text!r}: {error}") from None
        return cls(**found)  # type: ignore[arg-type]


def _by_default(text: str, name: str) -> object:
    kind: Callable[[str], object] = type(getattr(Settings, name, ""))
    return kind(text)


def _flag(text: str, _: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in known:
        raise ValueError("say true or false")
    return known[text.lower()]


def _users(text: str, _: str) -> dict[str, str]:
    pairs = [entry.split(":", 1) for entry in text.split(",") if entry]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise ValueError("say NAME:TOKEN, several with commas between")
    return {token: name for name, token in pairs}


def _path(text: str, _: str) -> Path:
    return Path(text)


def _list(text: str, _: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


_READ = {"enabled": _flag, "users": _users, "data": _path, "rates": _path, "cors_origins": _list}
