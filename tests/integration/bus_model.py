"""The bus on paper: what each public operation does to commands, batches and replies. Time is counted in leases."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

MAX_ATTEMPTS = 3  # of the policy of those who claim
RETRY_LEASES = 2  # how long a retry waits
TERMINAL = {"COMPLETED": "SUCCESS", "FAILED": "FAILED", "CANCELED": "CANCELED"}
PARKED = "IN_TROUBLESHOOTING_QUEUE"


@dataclass
class Paper:
    """One command. `until` is when its lease ends, `due` when its retry is; `epoch` counts its claims."""

    command_id: UUID
    data: dict[str, int]
    max_attempts: int | None = None
    has_reply: bool = False
    batch: UUID | None = None
    status: str = "PENDING"
    events: list[str] = field(default_factory=lambda: ["SENT"])
    epoch: int = 0
    failures: int = 0
    lost: int = 0
    until: int | None = None
    due: int | None = None

    def end(self, status: str, event: str) -> None:
        """Become terminal, parked, or pending again."""
        self.status, self.until, self.due = status, None, None
        self.events.append(event)

    def fail(self, event: str, now: int) -> None:
        """Record a failed attempt that may be tried again."""
        self.failures += 1
        if event == "broken" or self.failures >= (self.max_attempts or MAX_ATTEMPTS):
            self.end(PARKED, "MOVED_TO_TSQ")
        else:
            self.end("PENDING", "RETRY_SCHEDULED")
            self.lost_keeps_counting(now)

    def lost_keeps_counting(self, now: int) -> None:
        """Wait for the retry; leases that were lost in this life still count."""
        self.due = now + RETRY_LEASES

    @property
    def reply(self) -> str | None:
        """The outcome of the reply that it has left."""
        return TERMINAL.get(self.status) if self.has_reply else None


@dataclass
class BusModel:
    """All commands of a domain, by id."""

    commands: dict[UUID, Paper] = field(default_factory=dict)
    now: int = 0

    def add(self, commands: Iterable[Paper]) -> None:
        self.commands.update((command.command_id, command) for command in commands)

    def claimable(self) -> set[UUID]:
        """What a claim may take now: waiting, due, or taken over from a worker whose lease has ended."""
        return {
            command_id
            for command_id, c in self.commands.items()
            if c.status == "PENDING" and (c.due is None or c.due <= self.now)
        } | {
            command_id
            for command_id, c in self.commands.items()
            if self._lease_ended(c) and c.lost + 1 < (c.max_attempts or MAX_ATTEMPTS)
        }

    def claim(self, command_id: UUID) -> Paper:
        """Lease a command."""
        command = self.commands[command_id]
        command.lost += command.until is not None
        command.epoch += 1
        command.max_attempts = command.max_attempts or MAX_ATTEMPTS
        command.end("IN_PROGRESS", "RECEIVED")
        command.until = self.now + 1
        return command

    def owns(self, command_id: UUID, epoch: int) -> bool:
        """Tell whether a claim of this epoch is still good."""
        command = self.commands[command_id]
        return command.until is not None and command.epoch == epoch

    def settle(self, command_id: UUID, epoch: int, end: str) -> bool:
        """Record an attempt's end; False when the claim is lost, and the outcome dropped."""
        command = self.commands[command_id]
        if not self.owns(command_id, epoch):
            command.events.append("LATE_OUTCOME_DROPPED")
            return False
        if end == "ok":
            command.end("COMPLETED", "COMPLETED")
        elif end == "rule":
            command.end("FAILED", "BUSINESS_RULE_FAILED")
        else:
            command.fail(end, self.now)
        return True

    def release(self, command_id: UUID, epoch: int) -> None:
        if self.owns(command_id, epoch):
            self.commands[command_id].end("PENDING", "RELEASED")

    def renew(self, command_id: UUID, epoch: int, leases: int) -> bool:
        command = self.commands[command_id]
        if self.owns(command_id, epoch):
            command.until = self.now + leases
            command.events.append("LEASE_EXTENDED")
            return True
        return False

    def sweep(self) -> int:
        """Park what has lost its last lease; return how many."""
        lost = [
            c for c in self.commands.values() if self._lease_ended(c) and c.lost + 1 >= (c.max_attempts or MAX_ATTEMPTS)
        ]
        for command in lost:
            command.lost += 1
            command.end(PARKED, "MOVED_TO_TSQ")
        return len(lost)

    def operate(self, command_id: UUID, action: str) -> bool:
        """What an operator does; False when the command is not parked."""
        command = self.commands[command_id]
        if command.status != PARKED:
            return False
        if action == "retry":
            command.end("PENDING", "OPERATOR_RETRY")
            command.failures = command.lost = 0
        else:
            command.end("CANCELED" if action == "cancel" else "COMPLETED", f"OPERATOR_{action.upper()}")
        return True

    def cancel_batch(self, batch: UUID) -> int | None:
        """Cancel what nobody has claimed; return how many, None for a batch that has ended."""
        members = [c for c in self.commands.values() if c.batch == batch]
        if all(c.status in TERMINAL for c in members):
            return None
        waiting = [c for c in members if c.status == "PENDING"]
        for command in waiting:
            command.end("CANCELED", "CANCELED")
        return len(waiting)

    def counts(self, batch: UUID) -> tuple[int, int, int, int]:
        """Completed, failed, canceled, parked."""
        statuses = [c.status for c in self.commands.values() if c.batch == batch]
        return tuple(statuses.count(status) for status in ("COMPLETED", "FAILED", "CANCELED", PARKED))  # type: ignore[return-value]

    def _lease_ended(self, command: Paper) -> bool:
        return command.until is not None and command.until <= self.now
