"""What the pages share: who asks, which names are known, how an action is confirmed."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from fastapi import HTTPException, Request
from fastapi.responses import Response
from starlette.datastructures import FormData

from commandbus.web.pages.asking import read_id

if TYPE_CHECKING:
    from commandbus.web.console import Console


def id_of(text: str, what: str) -> UUID:
    """Read an id out of an address; anything else is a page that is not there."""
    try:
        return read_id(text)
    except ValueError as error:
        raise HTTPException(404, f"There is no such {what}: {error}") from None


def is_cut(request: Request) -> bool:
    """Whether the timeline is asked for without the time for which something has been parked."""
    return request.query_params.get("timeline") == "work"


def known_types(console: "Console", domain: str | None = None) -> list[str]:
    """Return the command types that the application handles, in one domain or in all."""
    domains = console.app.registry.domains if domain is None else [domain]
    return sorted({kind for each in domains for kind in console.app.registry.command_types(each)})


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A question with a form that does what it asks about: what the page `confirm.html` shows.

    `action` and `back` are paths of the console; `hidden` are fields that go along. `result` is the text of a field
    for a command's result, None for no such field; `error` tells what is wrong with it.
    """

    question: str
    facts: list[str]
    action: str
    back: str
    button: str
    kind: str = "primary"
    line: str = ""
    hidden: list[tuple[str, str]] = field(default_factory=list)
    reason: str = ""
    result: str | None = None
    error: str | None = None
    refused: str | None = None  # why it cannot be done at all


def ask(console: "Console", request: Request, confirmation: Confirmation) -> Response:
    """Show the question."""
    return console.site.render(
        request,
        "confirm.html",
        status_code=422 if confirmation.error or confirmation.refused else 200,
        confirmation=confirmation,
        may_name_operator=console.settings.auth is None,
    )


class Actor(NamedTuple):
    """Who acts, and why."""

    operator: str
    reason: str


def who(console: "Console", request: Request, form: FormData) -> Actor:
    """Who acts and why, for the audit trail: who has signed in, or the name that was typed where nobody signs in."""
    operator = console.site.operator(request) or console.settings.operator
    typed = form.get("operator")
    if console.settings.auth is None and isinstance(typed, str) and typed.strip():
        operator = typed.strip()
    reason = form.get("reason")
    return Actor(operator, reason.strip() if isinstance(reason, str) else "")
