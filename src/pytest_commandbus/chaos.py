"""Chaos: what a behavior does to one attempt of one command. Pure: no clock, no driver, no generator with a state.

A roll is keyed by facts that a second run has again (`RollKey`), hashed by blake2b under the seed. Each percentage is
a roll of its own, looked at in this order, and the first that hits decides:

1. permanent          with probability p
2. transient          for certain while fewer than `fail_transient_times` failures are recorded, else with t
3. business rule      with b
4. timeout            with o
5. success            otherwise

So P(permanent) = p, P(transient) = (1-p)·t, P(business rule) = (1-p)·(1-t)·b, P(timeout) = (1-p)·(1-t)·(1-b)·o: each
percentage is that of the attempts that got as far. 0 never hits, 100 always does.
"""

import hashlib
import struct
from collections.abc import Mapping
from statistics import NormalDist
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from commandbus.errors import CommandBusError, InvalidPayloadError
from commandbus.payload import dump_payload

from .shown import shown

RolledOutcome = Literal["permanent", "transient", "business_rule", "timeout", "success"]


def _no_boolean(value: object) -> object:
    """Refuse True for a number: it would be 1, and hardly what was meant."""
    if isinstance(value, bool):
        raise PydanticCustomError("boolean", "a number is needed")
    return value


_Number = BeforeValidator(_no_boolean)
Percentage = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False), _Number]
Milliseconds = Annotated[int, Field(ge=0, le=86_400_000), _Number]

TIMEOUT_CODE = "TIMEOUT"
_CODES: Mapping[RolledOutcome, str] = {
    "permanent": "CHAOS_PERMANENT",
    "transient": "CHAOS_TRANSIENT",
    "business_rule": "CHAOS_BUSINESS_RULE",
}
_DRAWS = struct.Struct("<5Q")
_UNIT = 2.0**-52  # a draw's upper 52 bits times this are a number in [0, 1)
_STANDARD_NORMAL = NormalDist()
_LONGEST_KEY = 64  # of blake2b, in bytes


class ChaosUsageError(CommandBusError, ValueError):
    """A chaos rule that says nothing valid; the message tells what would be."""


class CommandBehavior(BaseModel):
    """What chaos does to the attempts of a command; left alone, nothing.

    Percentages are from 0 to 100 and rolled in the order of this module's docstring. A success takes a duration from
    a normal distribution, its mean in the middle of `min_duration_ms` and `max_duration_ms`, its standard deviation a
    sixth of the range, clamped to it. `error_code` and `error_message` are those of injected failures (but timeouts).
    `response_data` is laid over what the handler returned; without `send_response` nothing is returned.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fail_permanent_pct: Percentage = 0.0
    fail_transient_pct: Percentage = 0.0
    fail_business_rule_pct: Percentage = 0.0
    timeout_pct: Percentage = 0.0
    fail_transient_times: Annotated[int, Field(ge=0), _Number] = 0
    min_duration_ms: Milliseconds = 0
    max_duration_ms: Milliseconds = 0
    error_code: Annotated[str, Field(min_length=1)] | None = None
    error_message: str | None = None
    send_response: StrictBool = True
    response_data: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _range_is_ordered(self) -> Self:
        if self.min_duration_ms > self.max_duration_ms:
            raise ValueError(
                f"min_duration_ms={self.min_duration_ms} is above max_duration_ms={self.max_duration_ms}: "
                "give both, the smaller one first"
            )
        return self

    @model_validator(mode="after")
    def _response_is_json(self) -> Self:
        if self.response_data is not None:
            try:
                dump_payload(self.response_data, what="response_data")
            except InvalidPayloadError as error:
                raise ValueError(f"response_data must be what JSON can hold, as a handler's result: {error}") from None
        return self

    @property
    def changes_response(self) -> bool:
        """Whether a success is answered with something else than what the handler returned."""
        return self.response_data is not None or not self.send_response


class RollKey(NamedTuple):
    """The facts that a roll depends on, all of them the same in a second run.

    batch: number of the batch in the test, 0 for none. ordinal: place of the process or command in its batch, or the
    id of a single command as text. step: the process's step, or the command type. visit: how many times the process
    has sent that step, from 1. failures: recorded so far, over all lives.
    """

    batch: int
    ordinal: int | str
    step: str
    visit: int
    failures: int

    def encode(self) -> bytes:
        """Give the one byte string of this key; two keys never share one."""
        batch, ordinal, step, visit, failures = self
        place = f"i{ordinal}" if isinstance(ordinal, int) else f"s{len(ordinal)}:{ordinal}"
        return f"{batch}|{visit}|{failures}|{place}|{step}".encode("utf-8", "surrogatepass")


class Rolled(NamedTuple):
    """What one attempt is to do. `duration_ms` is how long a success takes; a failure comes at once."""

    outcome: RolledOutcome
    duration_ms: int = 0
    error_code: str | None = None
    error_message: str | None = None


_AT_ONCE = Rolled("success")


def roll(seed: int, key: RollKey, behavior: CommandBehavior) -> Rolled:
    """Roll one attempt: a pure function of its arguments, the same on every machine and in every version."""
    digest = hashlib.blake2b(key.encode(), digest_size=_DRAWS.size, key=_seed_key(seed)).digest()
    permanent, transient, business_rule, timeout, duration = _DRAWS.unpack(digest)
    if _hits(permanent, behavior.fail_permanent_pct):
        return _failure("permanent", behavior)
    if key.failures < behavior.fail_transient_times or _hits(transient, behavior.fail_transient_pct):
        return _failure("transient", behavior)
    if _hits(business_rule, behavior.fail_business_rule_pct):
        return _failure("business_rule", behavior)
    if _hits(timeout, behavior.timeout_pct):
        return Rolled("timeout", 0, TIMEOUT_CODE, "chaos: the handler took longer than its lease")
    return Rolled("success", _duration(duration, behavior)) if behavior.max_duration_ms else _AT_ONCE


def behavior_of(value: object, where: str) -> CommandBehavior:
    """Check what a user gave as a behavior. Raises ChaosUsageError that begins with `where`."""
    if isinstance(value, CommandBehavior):
        return value
    if not isinstance(value, Mapping):
        raise ChaosUsageError(f"{where}: a behavior is a dict of {_fields()}; {shown(value)} is none")
    try:
        return CommandBehavior.model_validate(dict(value))
    except ValidationError as error:
        raise ChaosUsageError(f"{where}: " + "; ".join(_problem(e) for e in error.errors())) from None


def _seed_key(seed: int) -> bytes:
    key = seed.to_bytes(seed.bit_length() // 8 + 1, "big", signed=True)
    return key if len(key) <= _LONGEST_KEY else hashlib.blake2b(key).digest()


def _hits(draw: int, percentage: float) -> bool:
    return percentage > 0 and (draw >> 12) * _UNIT < percentage / 100


def _duration(draw: int, behavior: CommandBehavior) -> int:
    """Draw by the inverse of the normal distribution (Wichura's algorithm AS 241), in whole milliseconds."""
    least, most = behavior.min_duration_ms, behavior.max_duration_ms
    if least == most:
        return least
    deviations = _STANDARD_NORMAL.inv_cdf((draw >> 12) * _UNIT + _UNIT / 2)  # never of 0, never of 1
    drawn = (least + most) / 2 + deviations * (most - least) / 6
    return round(min(max(drawn, least), most))


def _failure(outcome: RolledOutcome, behavior: CommandBehavior) -> Rolled:
    message = behavior.error_message
    if message is None:
        message = f"chaos: injected {outcome.replace('_', ' ')} failure"
    return Rolled(outcome, 0, behavior.error_code or _CODES[outcome], message)


def _fields() -> str:
    return ", ".join(CommandBehavior.model_fields)


def _problem(error: Any) -> str:
    """Spell one of pydantic's errors with the field, what was given, and what is valid."""
    field = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown field {field!r}; the fields are {_fields()}"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if field.endswith("_pct"):
        return f"{field}={shown(error['input'])} is no percentage from 0 to 100"
    return f"{field}={shown(error['input'])}: {error['msg'][:1].lower()}{error['msg'][1:]}"
