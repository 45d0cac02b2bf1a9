"""The worker: claims commands, runs their handlers, settles what became of them."""

from commandbus.worker.worker import Worker

__all__ = ["Worker"]
