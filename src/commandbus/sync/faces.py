"""The blocking forms of the bus's classes. Their types stand in faces.pyi, which is made from the async classes."""

from commandbus.bus import CommandBus
from commandbus.process.base import BaseProcessManager
from commandbus.process.repository import ProcessRepository
from commandbus.replies import ReplyQueue
from commandbus.sync.face import Face
from commandbus.troubleshooting import TroubleshootingQueue


class CommandBusFace(Face, of=CommandBus, without={"cancel_batch"}):
    """CommandBus in blocking form."""


class SyncTroubleshootingQueue(Face, of=TroubleshootingQueue):
    """TroubleshootingQueue in blocking form."""


class SyncProcessRepository(Face, of=ProcessRepository):
    """ProcessRepository in blocking form."""


class ProcessManagerFace(Face, of=BaseProcessManager, only={"start", "start_many", "cancel_process"}):
    """What one asks of a process manager, in blocking form."""


class ReplyQueueFace(Face, of=ReplyQueue, without={"listen"}):
    """ReplyQueue in blocking form."""
