"""The console's pages, one module for each kind of thing; `ROUTERS` are made in this order."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastapi import APIRouter

from commandbus.web.pages import audit, batches, commands, finding, processes, troubleshooting

if TYPE_CHECKING:
    from commandbus.web.console import Console

ROUTERS: tuple[Callable[["Console"], APIRouter], ...] = (
    batches.router,
    processes.router,
    commands.router,
    troubleshooting.router,
    audit.router,
    finding.router,
)
