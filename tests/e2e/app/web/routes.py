"""The pages of the application: the forms, and what becomes of what they send. Lists and details are the console's."""

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, Response

from commandbus.web import NavLink, Site
from tests.e2e.app.api.routes import shown
from tests.e2e.app.api.schemas import Given, PreviewRequest, ProcessBatchCreateRequest, ProfileName
from tests.e2e.app.creating import TooManyError
from tests.e2e.app.models import ProcessStepBehavior
from tests.e2e.app.preview import STEPS, expect
from tests.e2e.app.profiles import PRESET, PRESETS
from tests.e2e.app.rendering import OutputType
from tests.e2e.app.services import Services
from tests.e2e.app.web import forms, load

CREATE = "/create-process-batch"
_DEFAULTS = {
    "count": "100",
    "from_date": "2026-05-01",
    "to_date": "2026-05-31",
    "account_list": "ACC-0001, ACC-0002",
    "output_type": OutputType.PDF.value,
    "name": "",
}


def router(services: Services, site: Site) -> APIRouter:
    """Return the pages, and add them to the navigation."""
    pages = APIRouter(include_in_schema=False)
    site.add_nav(
        NavLink("Create process batch", CREATE, order=200),
        NavLink("Send command", load.SEND, order=210),
        NavLink("Load test", load.METRICS, order=220),
    )
    for part in (_create, _profiles, _making, load.router):
        pages.include_router(part(services, site))
    return pages


Form = Annotated[dict[str, str], Depends(load.text_fields)]


class _BatchForm:
    """The form for a batch, with what it expects of the values in it."""

    def __init__(self, services: Services, site: Site) -> None:
        self._services = services
        self._site = site

    async def show(
        self, request: Request, values: Mapping[str, str], errors: Mapping[str, str], status_code: int = 200
    ) -> HTMLResponse:
        """Return the page, each error at its field."""
        return self._site.render(
            request,
            "create_batch.html",
            status_code=status_code,
            values=values,
            errors=errors,
            steps=STEPS,
            inputs=forms.INPUTS,
            output_types=[one.value for one in OutputType],
            presets=[(name, name.removeprefix(PRESET)) for name in PRESETS],
            profiles=list(await self._services.profiles.list()),
            **_preview(request, self._services, values),
        )

    async def values(self, request: Request, profile: str | None) -> dict[str, str]:
        """Return what the form begins with: a profile's behavior, and what the address says."""
        behavior = ProcessStepBehavior()
        if profile:
            known = PRESETS | await self._services.profiles.list()
            if profile not in known:
                raise HTTPException(404, f"There is no chaos profile {profile}.")
            behavior = known[profile]
        given = {name: value for name, value in request.query_params.items() if name in _DEFAULTS}
        return _DEFAULTS | forms.profile_values(behavior) | given | {"profile": profile or ""}

    async def wrong(self, values: Mapping[str, str]) -> tuple[ProcessBatchCreateRequest | None, Mapping[str, str]]:
        """Return the request, or the errors by field."""
        checked = forms.check(ProcessBatchCreateRequest, forms.process_batch(values))
        if checked.errors:
            return None, checked.errors
        if unknown := await self._services.unknown_accounts(checked.request.account_list):
            return None, {"account_list": f"The ledger has no account {', '.join(unknown[:5])}"}
        return checked.request, {}


def _create(services: Services, site: Site) -> APIRouter:
    pages = APIRouter()
    is_ours = [Depends(site.csrf)]
    page = _BatchForm(services, site)

    @pages.get(CREATE, name="create_process_batch")
    async def form(request: Request, profile: str | None = None) -> Response:
        return await page.show(request, await page.values(request, profile), {})

    @pages.post(CREATE, dependencies=is_ours)
    async def create(request: Request, values: Form) -> Response:
        asked, errors = await page.wrong(values)
        if asked is None:
            return await page.show(request, values, errors, 422)
        try:
            batch_id = await services.creator.begin(asked.count, asked.name)
        except TooManyError as error:
            return await page.show(request, values, {"": str(error)}, 429)
        services.creator.fill_later(batch_id, asked.count, asked.initial_data())
        return site.redirect(request, f"{CREATE}/{batch_id}", f"The batch of {asked.count:,} processes is being made.")

    @pages.post(f"{CREATE}/preview", dependencies=is_ours)
    async def preview(request: Request, values: Form) -> Response:
        if request.headers.get("hx-request"):
            return site.render(request, "create_preview.html", **_preview(request, services, values))
        return await page.show(request, values, {})

    return pages


def _profiles(services: Services, site: Site) -> APIRouter:
    pages = APIRouter()
    page = _BatchForm(services, site)

    @pages.post(f"{CREATE}/profile", dependencies=[Depends(site.csrf)])
    async def save_profile(request: Request, values: Form) -> Response:
        behavior = forms.check(ProcessStepBehavior, forms.process_batch(values).get("behavior", {}))
        name = forms.check(_Named, {"name": values.get("profile_name", "")})
        errors = {f"behavior.{field}": text for field, text in behavior.errors.items()}
        if name.errors:
            errors["profile_name"] = "A name is of small letters, digits and hyphens, up to 60"
        if not errors and not await services.profiles.save(name.request.name, behavior.request):
            errors["profile_name"] = "There are as many profiles as may be"
        if errors:
            return await page.show(request, values, errors, 422)
        return site.redirect(request, f"{CREATE}?profile={name.request.name}", f"Profile {name.request.name} is saved.")

    return pages


def _making(services: Services, site: Site) -> APIRouter:
    pages = APIRouter()

    @pages.get(f"{CREATE}/{{batch_id}}", name="making_batch")
    async def making(request: Request, batch_id: UUID) -> Response:
        creation = await services.creator.read(batch_id)
        if creation is None:
            raise HTTPException(404, f"There is no batch {batch_id} that was made here.")
        if not request.headers.get("hx-request"):
            return site.render(request, "making.html", creation=creation, batch_id=batch_id)
        response = site.render(request, "making_now.html", creation=creation, batch_id=batch_id)
        if creation.state == "COMPLETE":
            response.headers["HX-Redirect"] = f"{request.scope.get('root_path', '')}/process-batches/{batch_id}"
        return response

    return pages


class _Named(Given):
    """A profile's name."""

    name: ProfileName


def _preview(request: Request, services: Services, values: Mapping[str, str]) -> dict[str, Any]:
    """What the preview shows: nothing while something in the form is wrong."""
    body = forms.process_batch(values)
    checked = forms.check(PreviewRequest, {name: body[name] for name in ("count", "behavior") if name in body})
    if checked.errors:
        return {"preview": None, "marker": "", "curl": ""}
    asked: PreviewRequest = checked.request
    address = f"{request.base_url}".rstrip("/") + "/api/processes/batch"
    sent = body | {"count": asked.count}
    if asked.behavior.to_dict():
        sent["behavior"] = asked.behavior.to_dict()
    return {
        "preview": shown(expect(asked.count, asked.behavior, services.max_attempts)),
        "marker": forms.pytest_marker(asked.behavior),
        "curl": forms.curl(address, sent),
    }
