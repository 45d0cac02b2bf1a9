"""The troubleshooting queue: what is parked, by filters, and retrying, cancelling or completing some of it or all."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import Response
from starlette.datastructures import QueryParams

from commandbus.errors import InvalidPayloadError
from commandbus.models import BulkResult, TroubleshootingFilter
from commandbus.web.pages import command_line
from commandbus.web.pages.asking import Asked, find_page, read_id
from commandbus.web.pages.common import Actor, Confirmation, ask, known_types, who
from commandbus.web.site import NavLink, with_query

if TYPE_CHECKING:
    from commandbus.web.console import Console

_PATH = "/troubleshooting"
_MOST_NAMED = 250  # ids that one form may name; more are chosen by a filter
_EFFECTS = {
    "retry": "{} begins a new life: due at once, with all its attempts.",
    "cancel": "{} ends as CANCELED, and its process undoes the steps that were completed. This cannot be taken back.",
    "complete": "{} ends as COMPLETED with this result, and its process goes on. This cannot be taken back.",
}
_DONE = {"retry": "Retried", "cancel": "Cancelled", "complete": "Completed"}


@dataclass(frozen=True, slots=True)
class _Chosen:
    """What is to be done, with which commands: those that are named, or those that a filter finds."""

    action: str
    ids: list[UUID]
    where: TroubleshootingFilter
    query: dict[str, str]

    @property
    def back(self) -> str:
        """The page to return to."""
        return f"/commands/{self.ids[0]}" if len(self.ids) == 1 else with_query(_PATH, self.query)


def router(console: "Console") -> APIRouter:
    """Return the routes /troubleshooting, and /troubleshooting/act, which asks (GET) and acts (POST)."""
    routes = APIRouter(include_in_schema=False)
    site, tsq = console.site, console.tsq
    site.add_nav(NavLink("Troubleshooting", _PATH, order=50))

    @routes.get(_PATH, name="troubleshooting")
    async def listing(request: Request) -> Response:
        asked = Asked(request.query_params)
        where = _read_filter(console, asked)
        page = await find_page(
            asked, lambda cursor: tsq.list_troubleshooting(where=where, limit=asked.limit, cursor=cursor)
        )
        status = (await console.live.now()).status
        return site.render(
            request,
            "troubleshooting.html",
            status_code=422 if asked.errors else 200,
            asked=asked,
            page=page,
            path=_PATH,
            count=0 if asked.errors else await tsq.count_troubleshooting(where=where),
            now=await console.bus.now(),
            parked=[
                (domain.domain, command_type, count)
                for domain in status.domains
                for command_type, count in domain.parked.items()
            ],
            line=command_line.tsq_list(where),
        )

    @routes.get(f"{_PATH}/act", name="troubleshooting_act")
    async def confirm(request: Request) -> Response:
        chosen = _choose(console, request.query_params)
        if not chosen.ids:  # what is parked from now on is not what was looked at
            now = await console.bus.now()
            before = chosen.where.moved_before
            chosen = replace(chosen, where=replace(chosen.where, moved_before=min(now, before) if before else now))
        return ask(console, request, await _question(console, chosen))

    @routes.post(f"{_PATH}/act", dependencies=[Depends(site.csrf)])
    async def act(request: Request) -> Response:
        form = await request.form()
        chosen = _choose(console, QueryParams([(k, v) for k, v in form.multi_items() if isinstance(v, str)]))
        by = who(console, request, form)
        text = str(form.get("result") or "")
        try:
            arguments = _result(text) if chosen.action == "complete" else ()
            question = await _question(console, chosen)
            if question.refused:
                return ask(console, request, question)
            done = await _act(console, chosen, arguments, by)
        except (ValueError, InvalidPayloadError) as error:
            question = await _question(console, chosen)
            return ask(console, request, replace(question, error=str(error), result=text, reason=by.reason))
        note, is_error = _told(chosen, done)
        return site.redirect(request, chosen.back, note, is_error=is_error)

    return routes


def _read_filter(console: "Console", asked: Asked) -> TroubleshootingFilter:
    return TroubleshootingFilter(
        domain=asked.name("domain", "Domain", console.app.domains(console.pool)),
        command_type=asked.name("command_type", "Command type", known_types(console)),
        error_code=asked.text("error_code", "Error code"),
        batch_id=asked.id("batch_id", "Batch"),
        moved_after=asked.time("moved_after", "Parked from"),
        moved_before=asked.time("moved_before", "Parked before"),
    )


def _choose(console: "Console", params: QueryParams) -> _Chosen:
    """Read what was chosen. Raises HTTPException 422 for what cannot be understood."""
    action, asked = params.get("action", ""), Asked(params)
    where = _read_filter(console, asked)
    try:
        ids = [read_id(text) for text in params.getlist("command_id")]
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    if action not in _EFFECTS:
        raise HTTPException(422, f"action is {action!r}; it is one of {', '.join(_EFFECTS)}")
    if asked.errors:
        raise HTTPException(422, "; ".join(asked.errors))
    if params.get("all") == "yes":
        ids = []
    elif not ids:
        raise HTTPException(422, "No command was chosen. Go back, and tick some, or choose all that match.")
    elif len(ids) > _MOST_NAMED:
        raise HTTPException(422, f"{len(ids):,} commands are named; at most {_MOST_NAMED}: choose them by a filter.")
    return _Chosen(action, ids, where, asked.query)


async def _question(console: "Console", chosen: _Chosen) -> Confirmation:
    most = console.settings.max_bulk
    count = len(chosen.ids) or await console.tsq.count_troubleshooting(where=chosen.where)
    hidden = [("action", chosen.action), *(("command_id", str(command_id)) for command_id in chosen.ids)]
    facts = [_EFFECTS[chosen.action].format("It" if count == 1 else "Each")]
    where = None if chosen.ids else chosen.where
    refused = None
    if where is not None:
        hidden += [("all", "yes"), *((name, value) for name, value in chosen.query.items() if name != "moved_before")]
        if where.moved_before is not None:
            hidden.append(("moved_before", where.moved_before.isoformat()))
        chosen_by = [f"{name.replace('_', ' ')} {value}" for name, value in chosen.query.items()]
        facts.insert(
            0, "Chosen by " + ", ".join(chosen_by) + "." if chosen_by else "Chosen: everything that is parked."
        )
        facts.append("Commands that are parked after this page was made are left.")
        if count == 0:
            refused = "Nothing is parked that this finds (any more)."
    if count > most:
        refused = f"At most {most:,} at once: choose fewer, or use the command line below."
    return Confirmation(
        question=f"{chosen.action.capitalize()} {_commands(count)}?",
        facts=facts,
        action=f"{_PATH}/act",
        back=chosen.back,
        button=f"{chosen.action.capitalize()} {_commands(count)}",
        kind="danger" if chosen.action == "cancel" else "primary",
        line=command_line.tsq_action(chosen.action, chosen.ids, where),
        hidden=hidden,
        result="" if chosen.action == "complete" else None,
        refused=refused,
    )


def _result(text: str) -> tuple[Any, ...]:
    """The result that was typed, as the arguments of an action. Raises ValueError for what is no JSON object."""
    if not text.strip():
        return ()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The result is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError('The result must be a JSON object, as in {"parcel": "P7"}')
    return (value,)


async def _act(console: "Console", chosen: _Chosen, arguments: tuple[Any, ...], by: Actor) -> BulkResult:
    kind = "many" if chosen.ids else "where"
    act: Callable[..., Awaitable[BulkResult]] = getattr(console.tsq, f"operator_{chosen.action}_{kind}")
    return await act(chosen.ids or chosen.where, *arguments, **by._asdict())


def _told(chosen: _Chosen, result: BulkResult) -> tuple[str, bool]:
    """What was done, and whether something was not."""
    note = f"{_DONE[chosen.action]} {_commands(result.done)}."
    left = [f"{command_id} is {status}" for command_id, status in result.wrong_state.items()]
    left += [f"{command_id} does not exist" for command_id in result.not_found]
    if left:
        more = f", and {len(left) - 3} more" if len(left) > 3 else ""
        note += f" Not in the troubleshooting queue (any more): {'; '.join(left[:3])}{more}."
    return note, bool(left)


def _commands(count: int) -> str:
    return f"{count:,} parked command" + ("" if count == 1 else "s")
