"""Blocking code and an event loop in another thread: what `commandbus.sync` and plain handlers call the bus through."""

from commandbus.blocking.caller import Caller
from commandbus.blocking.proxy import SyncProxy

__all__ = ["Caller", "SyncProxy"]
