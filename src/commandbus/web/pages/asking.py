"""What a page is asked by its address: filters, each checked, with what is wrong told at its field."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from time import monotonic
from typing import TypeVar
from uuid import UUID

from starlette.datastructures import QueryParams

from commandbus.errors import InvalidCursorError
from commandbus.models import Page
from commandbus.payload import check_name, check_text

PAGE = 50  # items of a list, unless the address says ?limit=
_LIMITS = (25, 50, 100, 250)
_SEARCH = 0.4  # seconds for which one request goes on looking while nothing was found

_Item = TypeVar("_Item")
_Choice = TypeVar("_Choice", bound=StrEnum)


@dataclass(slots=True)
class Field:
    """One filter as its form shows it. `options` are all that there are when `kind` is "choice", else known ones."""

    name: str
    label: str
    value: str
    kind: str = "text"
    options: Sequence[str] = ()
    error: str | None = None


class Asked:
    """The filters of one request; reading one adds it to `fields`. `errors` are there once one could not be read."""

    def __init__(self, params: QueryParams) -> None:
        self._params = params
        self.fields: list[Field] = []
        self.problem: str | None = None

    @property
    def errors(self) -> list[str]:
        """What cannot be understood, for a person."""
        found = [f"{field.label}: {field.error}" for field in self.fields if field.error]
        return found + ([self.problem] if self.problem else [])

    @property
    def query(self) -> dict[str, str]:
        """The filters and the size of a page as the address has them, without the place in the list."""
        kept = {field.name: field.value for field in self.fields if field.value}
        return kept | ({"limit": self._params["limit"]} if self.limit != PAGE else {})

    @property
    def is_filtered(self) -> bool:
        """Whether anything is filtered."""
        return any(field.value for field in self.fields)

    @property
    def cursor(self) -> str | None:
        """Where the page begins, None at the start of the list."""
        return self._params.get("cursor") or None

    @property
    def limit(self) -> int:
        """How many items a page has."""
        text = self._params.get("limit", "")
        return int(text) if text in map(str, _LIMITS) else PAGE

    def name(self, name: str, label: str, known: Iterable[str] = ()) -> str | None:
        """Read the name of a domain, command type or process type."""
        return self._read(name, label, lambda value: check_name(value, label), options=sorted(set(known)))

    def text(self, name: str, label: str, known: Iterable[str] = ()) -> str | None:
        """Read a text."""
        return self._read(name, label, lambda value: check_text(value, name), options=list(known))

    def choice(self, name: str, label: str, choices: type[_Choice]) -> _Choice | None:
        """Read one of an enum's values."""
        return self._read(name, label, choices, kind="choice", options=[str(choice) for choice in choices])

    def id(self, name: str, label: str) -> UUID | None:
        """Read an id."""
        return self._read(name, label, read_id)

    def time(self, name: str, label: str) -> datetime | None:
        """Read a time; one without a zone is UTC."""
        return self._read(name, label, read_time, kind="time")

    def _read(
        self,
        name: str,
        label: str,
        parse: Callable[[str], _Item],
        *,
        kind: str = "text",
        options: Sequence[str] = (),
    ) -> _Item | None:
        value = self._params.get(name, "").strip()
        field = Field(name, label, value, kind, options)
        self.fields.append(field)
        if not value:
            return None
        try:
            return parse(value)
        except ValueError as error:
            field.error = str(error) if kind != "choice" else f"{value!r} is none; choose one of {', '.join(options)}"
            return None


def read_id(text: str) -> UUID:
    """Read an id. Raises ValueError that says how one looks."""
    try:
        return UUID(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is no id; one looks like 0190163d-8694-739b-aea5-966c26f8ad91") from None


def read_time(text: str) -> datetime:
    """Read an ISO time, UTC unless it says otherwise. Raises ValueError that says how one looks."""
    try:
        time = datetime.fromisoformat(text)
        return time.astimezone(UTC) if time.utcoffset() is not None else time.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time; write for example 2026-01-31T12:00 (UTC without a zone)") from None


async def find_page(asked: Asked, ask: Callable[[str | None], Awaitable[Page[_Item]]]) -> Page[_Item]:
    """Ask for a page from the address's place on; nothing while the filters cannot be read.

    Where few of many match a page may be empty and not the last: for a short while it is gone on with.
    """
    if asked.errors:
        return Page([], None)
    deadline = monotonic() + _SEARCH
    try:
        page = await ask(asked.cursor)
        while not page.items and page.next_cursor is not None and monotonic() < deadline:
            page = await ask(page.next_cursor)
    except InvalidCursorError:
        asked.problem = "This address names a place in the list that is none. Begin at the first page."
        return Page([], None)
    return page
