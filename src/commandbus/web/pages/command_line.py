"""The lines of the command line that do what a page shows or does. Pure."""

import shlex
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from commandbus.models import TroubleshootingFilter

_OPTIONS = {
    "domain": "--domain",
    "command_type": "--type",
    "error_code": "--error-code",
    "batch_id": "--batch",
    "moved_after": "--moved-after",
    "moved_before": "--moved-before",
}


def line(*words: object) -> str:
    """Return `commandbus` with these words, quoted for a shell; None and "" are left out."""
    return shlex.join(["commandbus", *(str(word) for word in words if word not in (None, ""))])


def option(name: str, value: object) -> tuple[object, ...]:
    """Return an option and its value, nothing without one."""
    return () if value in (None, "") else (name, value)


def tsq_list(where: TroubleshootingFilter) -> str:
    """Return what lists the same parked commands."""
    return line("tsq", "list", *_filter(where))


def tsq_action(
    action: str,
    command_ids: Iterable[UUID] = (),
    where: TroubleshootingFilter | None = None,
    *,
    reason: str = "",
    result: str = "",
) -> str:
    """Return what does the same with parked commands: with these, or with all that a filter finds."""
    chosen: tuple[object, ...] = tuple(command_ids)
    if where is not None:
        chosen = _filter(where) or ("--all",)
    return line("tsq", action, *chosen, *option("--reason", reason), *option("--result", result))


def batch_list(query: Mapping[str, str], batch_type: str) -> str:
    """Return what lists the same batches."""
    chosen = (*option("--domain", query.get("domain")), "--type", batch_type, *option("--status", query.get("status")))
    return line("batch", "list", *chosen)


def _filter(where: TroubleshootingFilter) -> tuple[object, ...]:
    words: list[object] = []
    for name, flag in _OPTIONS.items():
        words += option(flag, _shown(getattr(where, name)))
    return tuple(words)


def _shown(value: Any) -> object:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
