"""What the forms send, as the requests of the API; and its errors, each at the field that it is about. Pure."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from pytest_commandbus.chaos import CommandBehavior
from tests.e2e.app.models import ProcessStepBehavior
from tests.e2e.app.preview import STEPS

_Request = TypeVar("_Request", bound=BaseModel)
_FIELDS = CommandBehavior.model_fields


class Input(NamedTuple):
    """One input of a behavior. kind: percent, number, text, flag or json; most: of a number's slider."""

    name: str
    label: str
    kind: str
    most: int = 100


INPUTS = (
    Input("fail_permanent_pct", "Permanent failures", "percent"),
    Input("fail_transient_pct", "Transient failures", "percent"),
    Input("fail_business_rule_pct", "Business rule failures", "percent"),
    Input("timeout_pct", "Timeouts", "percent"),
    Input("fail_transient_times", "Transient failures at first, in number", "number", 10),
    Input("min_duration_ms", "Shortest duration, in ms", "number", 10_000),
    Input("max_duration_ms", "Longest duration, in ms", "number", 10_000),
    Input("error_code", "Error code", "text"),
    Input("error_message", "Error message", "text"),
    Input("response_data", "Response data, JSON", "json"),
    Input("send_response", "Send a response", "flag"),
)


@dataclass(frozen=True, slots=True)
class Checked:
    """What a form holds: the request when all of it is right, else the errors by field; the form is shown again."""

    request: Any = None
    errors: Mapping[str, str] = field(default_factory=dict)


def check(model: type[_Request], data: Mapping[str, Any]) -> Checked:
    """Hold data against a request of the API."""
    try:
        return Checked(model.model_validate(data))
    except ValidationError as error:
        return Checked(errors=errors_by_field(error.errors()))


def errors_by_field(errors: Any) -> dict[str, str]:
    """Return the first error of each field, its name as in the form: `behavior.query.timeout_pct`."""
    found: dict[str, str] = {}
    for error in errors:
        parts = [str(part) for part in error["loc"] if part != "body"]
        if parts[-1:] and parts[-1].isdigit():
            parts.pop()  # one of a list: the list's field
        if error["type"] == "value_error" and len(parts) == 2 and parts[0] == "behavior":
            parts.append(_blamed(error["msg"]))
        message = error["msg"].removeprefix("Value error, ")
        found.setdefault(".".join(parts), message[:1].upper() + message[1:])
    return found


def _blamed(message: str) -> str:
    return next((name for name in _FIELDS if name in message), "fail_permanent_pct")


def process_batch(form: Mapping[str, str]) -> dict[str, Any]:
    """Return what POST /api/processes/batch takes; empty fields are left out, a behavior of zeros is none."""
    data: dict[str, Any] = {
        name: form[name].strip()
        for name in ("count", "from_date", "to_date", "output_type", "name")
        if form.get(name, "").strip()
    }
    if "count" in data:
        data["count"] = number(data["count"])
    data["account_list"] = [one for one in form.get("account_list", "").replace(",", " ").split() if one]
    behavior = {step: given for step in STEPS if (given := behavior_of(form, f"behavior.{step}."))}
    if behavior:
        data["behavior"] = behavior
    return data


def behavior_of(form: Mapping[str, str], prefix: str) -> dict[str, Any]:
    """Return what was set of one behavior: nothing that stands as it would anyway."""
    given: dict[str, Any] = {}
    for one in INPUTS:
        text = form.get(prefix + one.name, "").strip()
        if one.kind == "flag":
            if form.get(prefix + "shown") and not text:
                given[one.name] = False
        elif one.kind in ("percent", "number"):
            if text and number(text) != 0:
                given[one.name] = number(text)
        elif text:
            given[one.name] = parsed(text) if one.kind == "json" else text
    return given


def values(prefix: str, behavior: CommandBehavior | None) -> dict[str, str]:
    """Return the form's fields for a behavior: what `behavior_of` reads."""
    found: dict[str, str] = {}
    for one in INPUTS:
        value = getattr(behavior or CommandBehavior(), one.name)
        if one.kind == "flag":
            text = "on" if value else ""
        elif one.kind == "json":
            text = "" if value is None else json.dumps(value, ensure_ascii=False)
        else:
            text = "" if value is None else str(value).removesuffix(".0") if isinstance(value, float) else str(value)
        found[prefix + one.name] = text
    return found


def profile_values(behavior: ProcessStepBehavior) -> dict[str, str]:
    """Return the fields of all steps of the batch form."""
    found: dict[str, str] = {}
    for step in STEPS:
        found |= values(f"behavior.{step}.", getattr(behavior, step))
    return found


def pytest_marker(behavior: ProcessStepBehavior) -> str:
    """Write the marker that makes the same happen in a test."""
    steps = [f"    {step}={given!r}," for step, given in behavior.to_dict().items() if given]
    return "\n".join(["@pytest.mark.chaos(", *steps, ")"]) if steps else "# no behavior: nothing to mark"


def curl(address: str, body: Mapping[str, Any]) -> str:
    """Write the command line that sends the same to the API."""
    text = json.dumps(body, indent=2, ensure_ascii=False).replace("'", "'\\''")
    return f"curl --json '{text}' \\\n  {address}"


def number(text: str) -> float | str:
    """Return the number that was written; what is none as it was, for the schema to tell."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parsed(text: str) -> Any:
    """Parse it if it is JSON; else the schema tells that a text is no object."""
    try:
        return json.loads(text)
    except ValueError:
        return text
