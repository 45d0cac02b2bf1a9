"""What a run costs: exact decimals, pure but for the file of rates."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from pathlib import Path
from threading import Lock
from typing import Any

from cachetools import TTLCache

from .errors import RatesError, Refused

CENT, FINE = Decimal("0.01"), Decimal("0.0001")
HUNDRED = Decimal(100)
INTERVAL = Decimal("0.05")
MOST_LEADS = 1000


def rounded(amount: Decimal, unit: Decimal = CENT) -> Decimal:
    """Round half up, as invoices do."""
    return amount.quantize(unit, ROUND_HALF_UP)


@dataclass(frozen=True)
class Rates:
    """What one template's reports cost: a base cost for each lead, and the rate of its provider or the blended one."""

    currency: str
    base_cost: Decimal
    blended_rate: Decimal
    providers: Mapping[str, Decimal]
    tiers: tuple[tuple[int, Decimal], ...]  # up to so many leads: percent off

    def discount(self, count: int) -> Decimal:
        """Percent off for so many leads. Raises Refused for 0 leads or more than the last tier has."""
        if count < 1:
            raise Refused(422, "NO_LEADS", "choose at least one lead")
        for up_to, percent in self.tiers:
            if count <= up_to:
                return percent
        raise Refused(422, "TOO_MANY_LEADS", f"{count} leads; at most {self.tiers[-1][0]} fit one batch")

    def unit_costs(self, count: int) -> dict[str, Decimal]:
        """What one lead costs by provider, in a batch of so many; the empty name is for leads without one."""
        share = 1 - self.discount(count) / HUNDRED
        rates = {**self.providers, "": self.blended_rate}
        return {name: rounded((self.base_cost + rate) * share, FINE) for name, rate in rates.items()}


@dataclass(frozen=True)
class Quote:
    """An estimate. `breakdown` adds up to `total`; `low` and `high` are 5 percent around it."""

    count: int
    currency: str
    total: Decimal
    discount_pct: Decimal
    breakdown: Mapping[str, tuple[int, Decimal]]
    unit_costs: Mapping[str, Decimal] = field(repr=False)

    @property
    def average(self) -> Decimal:
        """By lead."""
        return rounded(self.total / self.count, FINE)

    @property
    def low(self) -> Decimal:
        """The least that is expected."""
        return rounded(self.total * (1 - INTERVAL))

    @property
    def high(self) -> Decimal:
        """The most that is expected."""
        return rounded(self.total * (1 + INTERVAL))


def quote(rates: Rates, by_provider: Mapping[str | None, int]) -> Quote:
    """Estimate a batch, given how many leads each provider has (None: not known). Raises Refused."""
    if any(count < 0 for count in by_provider.values()):
        raise Refused(422, "NEGATIVE", "a number of leads cannot be negative")
    count = sum(by_provider.values())
    units = rates.unit_costs(count)
    breakdown = {}
    for provider, leads in sorted(by_provider.items(), key=lambda item: item[0] or ""):
        unit = units.get(provider or "", units[""])  # a provider without a rate of its own has the blended one
        breakdown[provider or ""] = (leads, rounded(unit * leads))
    total = sum((cost for _, cost in breakdown.values()), Decimal(0))
    return Quote(count, rates.currency, rounded(total), rates.discount(count), breakdown, units)


class RateBook:
    """The rates of each template version, read from a file, kept for `ttl` seconds, and read anew when it changes."""

    def __init__(self, path: Path, ttl: float = 300.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._cache: TTLCache[str, tuple[tuple[int, int], dict[str, Rates]]] = TTLCache(1, ttl, clock)
        self._lock = Lock()

    def rates(self, template_version: str) -> Rates:
        """Return one template's rates. Raises RatesError, or Refused for a template that there is not."""
        templates = self._templates()
        if template_version not in templates:
            raise Refused(422, "UNKNOWN_TEMPLATE", f"there are the template versions {', '.join(templates)}")
        return templates[template_version]

    def versions(self) -> list[str]:
        """The template versions that there are. Raises RatesError."""
        return list(self._templates())

    def _templates(self) -> dict[str, Rates]:
        with self._lock:
            try:
                stat = self._path.stat()
                stamp = (stat.st_mtime_ns, stat.st_size)
                known: tuple[tuple[int, int], dict[str, Rates]] | None = self._cache.get("")
                if known is None or known[0] != stamp:
                    known = self._cache[""] = stamp, read_rates(json.loads(self._path.read_text()))
                return known[1]
            except OSError as error:
                raise RatesError(f"the rates cannot be read: {error}") from None
            except ValueError as error:
                raise RatesError(f"{self._path}: {error}") from None


def read_rates(document: Any) -> dict[str, Rates]:
    """Read a file of rates: template version -> rates. Raises ValueError, which says what is wrong where."""
    if not isinstance(document, dict):
        raise ValueError("a JSON object is needed")
    tiers = tuple(
        (_count(tier, f"tiers[{n}].up_to"), _number(tier, "discount_pct", f"tiers[{n}].", most=HUNDRED))
        for n, tier in enumerate(_part(document, "tiers", list))
    )
    if not tiers or [up_to for up_to, _ in tiers] != sorted({up_to for up_to, _ in tiers}):
        raise ValueError("tiers: at least one, each up to more leads than the one before")
    templates = {}
    for version, own in _part(document, "templates", dict).items():
        merged = document | own
        where = f"templates.{version}."
        providers = _part(merged, "providers", dict)
        templates[version] = Rates(
            currency=str(_part(document, "currency", str)),
            base_cost=_number(merged, "base_cost", where),
            blended_rate=_number(merged, "blended_rate", where),
            providers={name: _number(providers, name, f"{where}providers.") for name in providers},
            tiers=tiers,
        )
    if not templates:
        raise ValueError("templates: there are none")
    return templates


def _part(document: dict[str, Any], name: str, kind: type) -> Any:
    if not isinstance(document.get(name), kind):
        raise ValueError(f"{name} is missing, or no {kind.__name__}")
    return document[name]


def _count(tier: Any, where: str) -> int:
    if not isinstance(tier, dict) or type(tier.get("up_to")) is not int or tier["up_to"] < 0:
        raise ValueError(f"{where}: a number of leads is needed")
    return int(tier["up_to"])


def _number(document: dict[str, Any], name: str, where: str, most: Decimal | None = None) -> Decimal:
    value = document.get(name)
    if not isinstance(value, str):  # a float is no exact decimal
        raise ValueError(f'{where}{name}: write it as text, "0.50"')
    try:
        number = Decimal(value)
    except InvalidOperation:
        raise ValueError(f"{where}{name}: {value!r} is no number") from None
    if not number.is_finite() or number < 0 or (most is not None and number > most):
        raise ValueError(f"{where}{name}: {value} is out of range")
    return number
