"""The forms: what they send is what the API takes, and an error stands at its field."""

import asyncio
import re
from typing import Any

import httpx
import pytest
from hypothesis import given
from psycopg_pool import AsyncConnectionPool

from pytest_commandbus.chaos import CommandBehavior
from pytest_commandbus.strategies import behaviors
from tests.e2e.app.models import ProcessStepBehavior
from tests.e2e.app.profiles import PRESETS
from tests.e2e.app.web import forms
from tests.e2e.conftest import PATIENCE
from tests.e2e.test_api_batches import rows

Pool = AsyncConnectionPool[Any]
PAGE = {"accept": "text/html"}
BATCH = {
    "count": "4",
    "from_date": "2026-05-01",
    "to_date": "2026-05-31",
    "account_list": "ACC-0001, ACC-0002",
    "output_type": "csv",
}


@given(behaviors())
def test_a_behavior_comes_back_from_the_form_as_it_was(declared: dict[str, Any]) -> None:
    behavior = CommandBehavior.model_validate(declared)
    fields = forms.values("behavior.", behavior) | {"behavior.shown": "yes"}
    again = CommandBehavior.model_validate(forms.behavior_of(fields, "behavior."))
    assert again == behavior.model_copy(
        update={"error_code": again.error_code, "error_message": again.error_message}
    )  # texts are trimmed, and an empty one is none


def test_a_form_left_as_it_is_sends_no_behavior_and_the_marker_says_what_the_form_does() -> None:
    untouched = BATCH | forms.profile_values(ProcessStepBehavior()) | {"behavior.query.shown": "yes"}
    assert "behavior" not in forms.process_batch(untouched)
    behavior = ProcessStepBehavior(render=CommandBehavior(fail_permanent_pct=12.5, error_code="X'Y"))
    marker = forms.pytest_marker(behavior)
    steps = eval(marker.replace("@pytest.mark.chaos", "dict"))  # noqa: S307  it is to be Python
    assert steps == {"render": {"fail_permanent_pct": 12.5, "error_code": "X'Y"}}
    assert "'\\''" in forms.curl("http://localhost/", {"name": "it's"})


async def token(api: httpx.AsyncClient, path: str) -> str:
    """Show a page as a browser does, and return the token of its forms."""
    page = await api.get(path, headers=PAGE)
    assert page.status_code == 200, page.text
    found = re.search(r'name="csrf_token" value="([^"]+)"', page.text)
    assert found is not None
    return found[1]


async def post(api: httpx.AsyncClient, path: str, page: str, fields: dict[str, str]) -> httpx.Response:
    return await api.post(path, data={"csrf_token": await token(api, page)} | fields, headers=PAGE)


def error_at(page: str, field: str) -> str:
    found = re.search(rf'id="{re.escape(field)}-error">([^<]*)<', page)
    assert found is not None, page
    return found[1]


@pytest.mark.asyncio
async def test_the_batch_form_makes_what_it_says(api: httpx.AsyncClient, cb_pool: Pool) -> None:
    form = "/create-process-batch"
    without = await api.post(form, data=BATCH, headers=PAGE)
    assert without.status_code == 403
    wrong = BATCH | {
        "count": "100001",
        "to_date": "2026-04-01",
        "account_list": "ACC-9998",
        "behavior.render.timeout_pct": "101",
        "behavior.query.min_duration_ms": "5",
        "behavior.aggregation.response_data": "{",
    }
    refused = await post(api, form, form, wrong)
    assert refused.status_code == 422
    assert "at most 100,000" in error_at(refused.text, "count").lower()
    assert "exchange" in error_at(refused.text, "to_date")
    assert "100" in error_at(refused.text, "behavior.render.timeout_pct")
    assert "max_duration_ms" in error_at(refused.text, "behavior.query.min_duration_ms")
    assert "dictionary" in error_at(refused.text, "behavior.aggregation.response_data")
    assert 'value="100001"' in refused.text  # what was written is still there
    unknown = await post(api, form, form, BATCH | {"account_list": "ACC-9998"})
    assert "ACC-9998" in error_at(unknown.text, "account_list")
    assert await rows(cb_pool, "SELECT count(*) FROM commandbus.batch") == [(0,)]

    behavior = {"behavior.render.fail_permanent_pct": "100", "behavior.query.fail_transient_times": "1"}
    seen = await post(api, f"{form}/preview", form, BATCH | behavior)
    assert '<strong data-expected="parked">4</strong>' in seen.text
    assert "&#39;fail_permanent_pct&#39;: 100.0" in seen.text  # in the marker
    saved = await post(api, f"{form}/profile", form, BATCH | behavior | {"profile_name": "no-render"})
    assert saved.headers["location"] == f"{form}?profile=no-render"
    assert 'name="behavior.render.fail_permanent_pct" type="number"' in (await api.get(saved.headers["location"])).text
    offered = (await api.get(form, headers=PAGE)).text
    for name, preset in PRESETS.items():
        assert f'<option value="{name}">' in offered
        page = (await api.get(form, params={"profile": name}, headers=PAGE)).text
        for field, value in forms.profile_values(preset).items():
            if value not in ("", "0", "on"):
                assert re.search(rf'name="{re.escape(field)}"[^>]*value="{value}"', page), (name, field)
    assert "<option>no-render</option>" in offered
    badly = await post(api, f"{form}/profile", form, BATCH | behavior | {"profile_name": "No Render"})
    assert "small letters" in error_at(badly.text, "profile_name")

    made = await post(api, form, form, BATCH | behavior)
    assert made.status_code == 303, made.text
    making = made.headers["location"]
    async with asyncio.timeout(PATIENCE):
        while "All 4 processes are stored" not in (await api.get(making, headers=PAGE)).text:
            pass
    done = await api.get(making, headers=PAGE | {"hx-request": "true"})
    assert done.headers["hx-redirect"] == making.replace(form, "/process-batches")
    stored = await rows(cb_pool, "SELECT state->'behavior' FROM commandbus.process")
    assert stored == [({"query": {"fail_transient_times": 1}, "render": {"fail_permanent_pct": 100.0}},)] * 4
    (process_id,) = (await rows(cb_pool, "SELECT process_id FROM commandbus.process LIMIT 1"))[0]
    shown = (await api.get(f"/processes/{process_id}", headers=PAGE)).text
    assert "Behavior that applied" in shown
    assert "&#34;fail_transient_times&#34;: 1" in shown


@pytest.mark.asyncio
async def test_commands_are_sent_one_or_many(api: httpx.AsyncClient, cb_pool: Pool) -> None:
    form = "/send-command"
    bad = await post(api, form, form, {"data": "[1]", "behavior.shown": "yes", "behavior.timeout_pct": "-1"})
    assert bad.status_code == 422
    assert "JSON object" in error_at(bad.text, "data")
    assert "0" in error_at(bad.text, "behavior.timeout_pct")
    sent = await post(api, form, form, {"data": '{"n": 1}', "behavior.shown": "yes", "behavior.timeout_pct": "7"})
    command_id = sent.headers["location"].removeprefix("/commands/")
    expected = {"timeout_pct": 7.0, "send_response": False}
    stored = await rows(cb_pool, "SELECT command_id::text, behavior FROM e2e.test_command")
    assert stored == [(command_id, expected)]
    assert "timeout_pct" in (await api.get(f"/commands/{command_id}", headers=PAGE)).text

    parts = {"mix": "custom", "success": "50", "fail_transient_then_succeed": "0", "fail_permanent": "49"}
    odd = await post(api, f"{form}/load-test", form, {"count": "10", "delay_ms": "0"} | parts)
    assert "add to 99" in error_at(odd.text, "behavior_distribution")
    many = await post(api, f"{form}/load-test", form, {"count": "40", "delay_ms": "0", "mix": "mixed"})
    assert many.headers["location"] == "/load-test"
    metrics = (await api.get("/load-test", headers=PAGE)).text
    assert '<span data-figure="pending">40</span>' in metrics
    assert '<strong data-figure="queue">41</strong>' in metrics
    kinds = await rows(cb_pool, "SELECT count(*) FROM e2e.test_command WHERE behavior->>'fail_permanent_pct' = '100.0'")
    assert kinds == [(2,)]
    nobody = await post(api, "/load-test/stop-workers", "/load-test", {})
    assert nobody.status_code == 303
