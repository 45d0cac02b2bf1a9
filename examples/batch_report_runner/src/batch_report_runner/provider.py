"""A stub of those who sell figures on leads: it takes a while, fails at times, and always says the same of a lead."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from commandbus import TransientCommandError


@dataclass(frozen=True)
class Figures:
    """Twelve months of a lead's orders, and who has sold them."""

    provider: str
    months: list[int]


class ProviderStub:
    """`latency` is in seconds. Of `failure_pct` percent of the leads each attempt fails; chaos does better in tests."""

    def __init__(self, latency: float = 0.0, failure_pct: float = 0.0) -> None:
        self._latency = latency
        self._failure_pct = failure_pct

    async def fetch(self, lead: dict[str, Any], providers: Sequence[str]) -> Figures:
        """Return a lead's figures; without a provider of its own it gets one. Raises TransientCommandError."""
        digest = hashlib.sha256(str(lead["lead_id"]).encode()).digest()
        await asyncio.sleep(self._latency)
        if digest[0] * 100 / 256 < self._failure_pct:
            raise TransientCommandError("PROVIDER_DOWN", f"{lead['provider'] or 'the provider'} does not answer")
        provider = lead["provider"] or providers[lead["lead_id"] % len(providers)]
        return Figures(provider, [20 + byte % 180 for byte in digest[1:13]])
