"""A console with users: signing in and out, and what a cookie is good for."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import HTTPConnection

from commandbus import App
from commandbus.web import Users, create_console, hash_password
from tests.console.conftest import client_of
from tests.console.test_security import token_of, with_routes

NAME, PASSWORD = "anna", "correct horse battery"
SECRET = "a secret of the test's own"


@pytest.fixture
def guarded(console_app: App, cb_pool: Any) -> FastAPI:
    users = Users({NAME: hash_password(PASSWORD)})
    return with_routes(console_app, cb_pool, auth=users, allowed_hosts=("bus.example.org",), secret=SECRET)


def visitor(asgi: FastAPI, **options: Any) -> Any:
    return client_of(asgi, base_url="http://bus.example.org", **options)


async def sign_in(
    client: httpx.AsyncClient, password: str = PASSWORD, name: str = NAME, to: str = ""
) -> httpx.Response:
    token = token_of(await client.get("/sign-in"))
    return await client.post("/sign-in", data={"csrf_token": token, "name": name, "password": password, "to": to})


@pytest.mark.asyncio
async def test_nothing_is_shown_before_signing_in(guarded: FastAPI) -> None:
    async with visitor(guarded) as client:
        answer = await client.get("/dashboard/now?a=b&c=d")
        assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?to=/dashboard/now%3Fa%3Db%26c%3Dd")
        for path in ("/dashboard/history.json", "/live/events", "/openapi.json", "/nowhere", "/static/console/../x"):
            answer = await client.get(path, headers={"accept": "application/json"})
            assert answer.status_code == 401, path
            assert "Basic" in answer.headers["www-authenticate"]
        assert (await client.get("/static/console/console.css")).status_code == 200
        assert (await client.post("/api/order", json={})).status_code == 401
        page = (await client.get("/sign-in")).text
        assert "Dashboard" not in page
        assert "data-live-pause" not in page


@pytest.mark.asyncio
async def test_signing_in_and_out(guarded: FastAPI) -> None:
    async with visitor(guarded) as client:
        for name, password in ((NAME, "wrong"), ("nobody", PASSWORD), (NAME, ""), ("", "")):
            answer = await sign_in(client, password, name)
            assert answer.status_code == 403
            assert "Name or password is wrong" in answer.text
        before = dict(client.cookies)
        answer = await sign_in(client, to="/dashboard/now")
        assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard/now")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert dict(client.cookies) != before, "the session from before signing in is not the one after it"
        page = await client.get("/")
        assert f"Sign out {NAME}" in page.text
        answer = await client.post("/sign-out", data={"csrf_token": token_of(page)})
        assert answer.status_code == 303
        assert (await client.get("/")).status_code == 303


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "to", ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:alert(1)", "x", "/\n/evil"]
)
async def test_signing_in_leads_nowhere_else(guarded: FastAPI, to: str) -> None:
    async with visitor(guarded) as client:
        assert (await sign_in(client, to=to)).headers["location"] == "/"


@pytest.mark.asyncio
async def test_a_cookie_signs_in_forms_but_no_call(guarded: FastAPI) -> None:
    async with visitor(guarded) as client:
        await sign_in(client)
        token = token_of(await client.get("/"))
        assert (await client.post("/order", data={"what": "tea", "csrf_token": token})).status_code == 200
        assert (await client.post("/order", data={"what": "tea"})).status_code == 403
        assert (await client.post("/api/order", json={})).status_code == 401
        assert (await client.post("/api/order", json={}, headers={"x-csrf-token": token})).status_code == 200
    async with visitor(guarded, auth=(NAME, PASSWORD)) as client:
        assert (await client.post("/api/order", json={"a": 1})).json() == {"a": 1}
        assert (await client.post("/order", data={"what": "tea"})).status_code == 403, "a form is a form"
        assert (await client.get("/")).status_code == 200
    for header in ("Basic", "Basic ?", "Basic YW5uYQ==", "Bearer x", f"Basic {'A' * 50}"):
        async with visitor(guarded, headers={"accept": "*/*", "authorization": header}) as client:
            assert (await client.get("/")).status_code == 401, header


@pytest.mark.asyncio
async def test_a_cookie_that_was_made_up_changed_or_has_expired_is_none(guarded: FastAPI) -> None:
    site = guarded.state.console.site
    session = site.sessions.new(NAME)
    good = site.sessions.text(session)
    stranger = create_console(App(), guarded.state.console.pool).state.console.site
    body, _, signature = good.partition(".")
    wrong = [
        "", ".", "x", body, f"{body}.", f"{body}.{signature[:-1]}", f"{body[:-4]}AAAA.{signature}", "é.x", good * 200,
        stranger.sessions.text(session), site.signer.sign("note", [session.session_id, NAME, session.expires]),
        site.sessions.text(dataclasses.replace(session, expires=time.time() - 1)),
        site.sessions.text(dataclasses.replace(session, user="somebody who was removed")),
    ]  # fmt: skip
    async with visitor(guarded) as client:
        for cookie, status in [(good, 200), *((text, 303) for text in wrong)]:
            headers = [("cookie", f"commandbus_session={cookie}".encode())]
            assert (await client.get("/", headers=headers)).status_code == status, cookie


@pytest.mark.asyncio
async def test_something_before_the_console_may_say_who_asks(console_app: App, cb_pool: Any) -> None:
    def who(conn: HTTPConnection) -> str | None:
        return conn.headers.get("x-user")

    asgi = with_routes(console_app, cb_pool, auth=who, allowed_hosts=("bus.example.org",))
    async with visitor(asgi) as client:
        assert (await client.get("/")).status_code == 401
        assert (await client.get("/", headers={"x-user": "anna"})).status_code == 200


def test_a_file_of_users(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"# operators\n\nanna:{hash_password(PASSWORD)}\nbob:{hash_password('another one')}\n")
    users = Users.read(path)
    assert (users.check("anna", PASSWORD), users.check("bob", PASSWORD), users.check("eve", PASSWORD)) == (
        True,
        False,
        False,
    )
    assert PASSWORD not in path.read_text()
    for text, told in (("anna", "line 1"), ("anna:secret", "anna"), ("", "nobody"), (":scrypt$a$b", "''")):
        path.write_text(text)
        with pytest.raises(ValueError, match=told):
            Users.read(path)
    with pytest.raises(ValueError, match="8 characters"):
        hash_password("short")
