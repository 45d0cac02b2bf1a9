"""The errors of the bus. The docstring is the message; what one may want to act on is an attribute."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID


class CommandBusError(Exception):
    """Base of every error of the bus."""


class _HandlerFailure(CommandBusError):
    """A failure that a handler reports: a stable code for machines, a message for people."""

    def __init__(self, code: str, message: str = "", details: dict[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
        self.message = message or code
        self.details = details or {}


class TransientCommandError(_HandlerFailure):
    """It may work the next time: retried by the policy's backoff, then parked in the troubleshooting queue."""


class PermanentCommandError(_HandlerFailure):
    """It will not work without an operator: parked in the troubleshooting queue at once."""


class BusinessRuleError(_HandlerFailure):
    """The business says no: FAILED at once, no operator; a process undoes its completed steps."""


class DuplicateCommandError(CommandBusError):
    """A command with this id is already stored; nothing was changed.

    `same_payload` tells whether the stored data equals what was sent, None when it was not compared (bulk sends).
    """

    def __init__(self, command_id: UUID, same_payload: bool | None = None) -> None:
        how = {True: " with the same data", False: " with other data", None: ""}[same_payload]
        mend = "; a repeated send may take this as done" if same_payload else "; give each command an id of its own"
        super().__init__(f"command {command_id} is already stored{how}; nothing was changed{mend}")
        self.command_id = command_id
        self.same_payload = same_payload


class CommandNotFoundError(CommandBusError):
    """No command has this id."""

    def __init__(self, command_id: UUID) -> None:
        super().__init__(f"no command has the id {command_id}; it may be of another database, or pruned")
        self.command_id = command_id


class BatchNotFoundError(CommandBusError):
    """No batch of this domain, or of any when it is None, has this id."""

    def __init__(self, domain: str | None, batch_id: UUID) -> None:
        if domain is None:
            message = f"no batch has the id {batch_id}; it may be of another database, or pruned"
        else:
            message = f"no batch of domain {domain!r} has the id {batch_id}; it may be of another one, or pruned"
        super().__init__(message)
        self.domain = domain
        self.batch_id = batch_id


class ProcessNotFoundError(CommandBusError):
    """No process has this id."""

    def __init__(self, process_id: UUID) -> None:
        super().__init__(f"no process has the id {process_id}; it may be of another database, or pruned")
        self.process_id = process_id


class HandlerNotFoundError(CommandBusError):
    """No handler is registered for this domain and command type."""

    def __init__(self, domain: str, command_type: str) -> None:
        super().__init__(
            f"no handler is registered for {command_type!r} in domain {domain!r}: "
            "declare one with @app.handler(domain, command_type), or correct the names"
        )
        self.domain = domain
        self.command_type = command_type


class HandlerAlreadyRegisteredError(CommandBusError):
    """A second handler for one domain and command type."""

    def __init__(self, domain: str, command_type: str, first: str, second: str) -> None:
        super().__init__(
            f"{command_type!r} in domain {domain!r} is already handled by {first}; "
            f"{second} cannot handle it too: remove one of them, or give it another command type"
        )
        self.domain = domain
        self.command_type = command_type


class InvalidOperationError(CommandBusError):
    """The state of the thing does not allow this."""


class InvalidPayloadError(CommandBusError, ValueError):
    """A payload that JSON, PostgreSQL or Python would not give back as it was; `path` says where."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class InvalidNameError(CommandBusError, ValueError):
    """A domain, command type or the like that is no valid name."""

    def __init__(self, what: str, shown: str) -> None:
        super().__init__(f"{what} {shown} is no valid name: use 1 to 63 of the characters A-Z a-z 0-9 _ . -")
        self.what = what


class InvalidIdError(CommandBusError, TypeError):
    """An id that is no uuid.UUID; nothing was changed."""

    def __init__(self, what: str, shown: str, kind: str) -> None:
        super().__init__(f"{what} must be a uuid.UUID, not the {kind} {shown}: write UUID(...)")
        self.what = what


class InvalidCursorError(CommandBusError, ValueError):
    """A cursor that no page gave."""

    def __init__(self, cursor: object) -> None:
        text = cursor if isinstance(cursor, str) else repr(cursor)
        shown = repr(text if len(text) <= 60 else text[:60] + "...")
        super().__init__(f"{shown} is no cursor: pass what a page of the same listing gave as next_cursor, unchanged")


class SchemaError(CommandBusError):
    """The database's schema is not the one that this version of the bus works with."""


class MigrationError(SchemaError):
    """A migration that was edited, is missing or cannot be applied."""


class LeaseLostError(CommandBusError):
    """The command is no longer this worker's: its lease ran out and another claimed it, or an operator acted on it."""

    def __init__(self, command_id: UUID) -> None:
        super().__init__(
            f"command {command_id} is no longer leased to this worker; its transaction is rolled back. "
            "Ask for a longer visibility_timeout, or call ctx.extend_visibility() in time"
        )
        self.command_id = command_id


class AttemptEndedError(LeaseLostError):
    """A plain handler's thread goes on after its attempt: the lease ran out, or the worker stops; its work is void."""

    def __init__(self, command_id: UUID) -> None:
        CommandBusError.__init__(
            self,
            f"the attempt at command {command_id} has ended before its handler: what was open is rolled back, and its "
            "result will be dropped, so return. Ask for a longer visibility_timeout, or call "
            "ctx.sync.extend_visibility() in time",
        )
        self.command_id = command_id


class ReplyLostError(CommandBusError):
    """Replies that are no longer this consumer's: their lease ran out and another received them; `command_ids`."""

    def __init__(self, command_ids: Sequence[UUID]) -> None:
        more = f" and {len(command_ids) - 1} more" if len(command_ids) > 1 else ""
        super().__init__(
            f"the reply of command {command_ids[0]}{more} is no longer this consumer's: its lease ran out and another "
            "received it, or it was acknowledged already; let the transaction roll back, receive with a longer lease"
        )
        self.command_ids = tuple(command_ids)


class PoolTooSmallError(CommandBusError):
    """The connection pool cannot serve a worker and its handlers at the same time."""
