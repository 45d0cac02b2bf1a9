"""What the counts of a batch come to."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from commandbus import BatchMetadata


def settled_count(stats: "BatchMetadata") -> int:
    """Return how many members are terminal or parked."""
    return stats.completed_count + stats.failed_count + stats.canceled_count + stats.in_troubleshooting_count


def describe(stats: "BatchMetadata") -> str:
    """Return the counts in one line."""
    open_count = max(stats.total_count - settled_count(stats), 0)
    return (
        f"{stats.status}: {stats.total_count} in all, {stats.completed_count} completed, {stats.failed_count} failed, "
        f"{stats.canceled_count} canceled, {stats.in_troubleshooting_count} in troubleshooting, {open_count} open"
    )
