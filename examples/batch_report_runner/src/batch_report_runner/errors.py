"""What the API refuses, as errors that know their HTTP status."""


class Refused(Exception):
    """A request that cannot be done: `status` is HTTP's, `code` for machines, the message for people."""

    def __init__(self, status: int, code: str, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after  # seconds


class RatesError(Exception):
    """The file of rates is missing, or says something that makes no sense; the message says where."""


class TokenError(Exception):
    """A token that is no token of ours, has expired, or is for something else."""
