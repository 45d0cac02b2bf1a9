"""The bus for blocking code."""

from commandbus.blocking import SyncProxy
from commandbus.sync.portal import Portal

__all__ = ["Portal", "SyncProxy"]
