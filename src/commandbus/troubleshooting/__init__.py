"""The troubleshooting queue: commands that wait for an operator, and what an operator may do with them."""

from commandbus.troubleshooting.queue import TroubleshootingQueue

__all__ = ["TroubleshootingQueue"]
