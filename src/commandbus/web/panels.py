"""What an application adds to the console's dashboard, and to the page of a command or of a process."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from commandbus.models import AuditEvent, CommandMetadata
from commandbus.process.models import ProcessAuditEntry, ProcessMetadata

_log = logging.getLogger(__name__)
_Maker = TypeVar("_Maker", bound=Callable[..., Awaitable["Panel | None"]])


@dataclass(frozen=True, slots=True)
class Panel:
    """A section of a page: its title, the template that it is made of, and what that one knows beside the page's."""

    title: str
    template: str
    context: dict[str, Any] = field(default_factory=dict)


CommandPanel = Callable[[CommandMetadata, Sequence[AuditEvent]], Awaitable[Panel | None]]
ProcessPanel = Callable[[ProcessMetadata, Sequence[ProcessAuditEntry]], Awaitable[Panel | None]]
DashboardPanel = Callable[[], Awaitable[Panel | None]]


class Panels:
    """The makers of panels, asked for each page in the order in which they were added; one returns None for no panel.

    `on_dashboard` makers are called with nothing, `on_command` ones with the command and its audit events, `on_process`
    ones with the process and what it has sent. One that fails is logged and leaves a panel that says so: the page is
    shown all the same.
    """

    def __init__(self) -> None:
        self._of_dashboard: list[DashboardPanel] = []
        self._of_commands: list[CommandPanel] = []
        self._of_processes: list[ProcessPanel] = []

    def on_dashboard(self, maker: DashboardPanel) -> DashboardPanel:
        """Add a maker for the dashboard; also to be used as a decorator."""
        self._of_dashboard.append(maker)
        return maker

    def on_command(self, maker: CommandPanel) -> CommandPanel:
        """Add a maker for the page of a command; also to be used as a decorator."""
        self._of_commands.append(maker)
        return maker

    def on_process(self, maker: ProcessPanel) -> ProcessPanel:
        """Add a maker for the page of a process; also to be used as a decorator."""
        self._of_processes.append(maker)
        return maker

    async def of_dashboard(self) -> list[Panel]:
        """Return the panels of the dashboard."""
        return await _made([(maker, maker()) for maker in self._of_dashboard])

    async def of_command(self, command: CommandMetadata, events: Sequence[AuditEvent]) -> list[Panel]:
        """Return the panels of a command's page."""
        return await _made([(maker, maker(command, events)) for maker in self._of_commands])

    async def of_process(self, process: ProcessMetadata, trail: Sequence[ProcessAuditEntry]) -> list[Panel]:
        """Return the panels of a process's page."""
        return await _made([(maker, maker(process, trail)) for maker in self._of_processes])


async def _made(asked: Sequence[tuple[object, Awaitable[Panel | None]]]) -> list[Panel]:
    panels = []
    for maker, making in asked:
        name = getattr(maker, "__qualname__", type(maker).__qualname__)
        try:
            panel = await making
        except Exception as error:
            _log.exception("the panel %s could not be made", name)
            panel = Panel(
                name, "panel_failed.html", {"problem": f"{type(error).__name__}; the log of the console says more"}
            )
        if panel is not None:
            panels.append(panel)
    return panels
