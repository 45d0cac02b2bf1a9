"""The guard: which hosts and origins are answered, what a form must bring, how much a request may be."""

import re
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI, Form
from psycopg.conninfo import make_conninfo
from psycopg_pool import AsyncConnectionPool

from commandbus import App
from commandbus.web import ConsoleSettings, NotAuthenticatedError, Users, create_console, hash_password, serve
from commandbus.web.dashboard import shown_database
from pytest_commandbus.database import Database
from tests.console.conftest import client_of

FORM = {"content-type": "application/x-www-form-urlencoded"}
STRICT = "default-src 'none'; script-src 'self'"


def with_routes(app: App, pool: AsyncConnectionPool[Any], **settings: Any) -> FastAPI:
    """A console with routes of an application, which has forgotten every check of its own."""
    asgi = create_console(app, pool, ConsoleSettings(**settings))

    @asgi.post("/order")
    async def order(what: Annotated[str, Form()]) -> dict[str, str]:
        return {"ordered": what}

    @asgi.post("/api/order")
    async def order_by_api(body: dict[str, Any]) -> dict[str, Any]:
        return body

    @asgi.get("/broken")
    async def broken() -> None:
        raise ValueError("secret detail")

    return asgi


def token_of(page: httpx.Response) -> str:
    found = re.search(r'name="csrf-token" content="([^"]+)"', page.text)
    assert found, page.text
    return found[1]


@pytest.mark.asyncio
async def test_only_allowed_hosts_and_our_own_origin_are_answered(console_app: App, cb_pool: Any) -> None:
    async with client_of(with_routes(console_app, cb_pool)) as client:

        async def status(method: str = "GET", path: str = "/", **headers: str) -> int:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return (
                await client.request(method, path, headers=named, json={} if method == "POST" else None)
            ).status_code

        for host in ("localhost", "LocalHost:8080", "127.0.0.1", "[::1]:8080"):
            assert await status(host=host) == 200, host
        for host in (
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "evil.example:80",
            "[::2]",
        ):
            assert await status(host=host) == 400, host
        for origin in (
            "http://evil.example",
            "null",
            "http://localhost:81",
            "http://localhost@evil.example",
            "http://[",
            "http://localhost http://evil.example",
            "localhost",
        ):
            assert await status(origin=origin) == 403, origin
            assert await status("POST", "/api/order", origin=origin) == 403, origin
            assert await status(path="/live/events", origin=origin) == 403, origin
        assert await status("POST", "/api/order", origin="http://localhost") == 200
        assert await status("POST", "/api/order") == 200
        for site in ("cross-site", "same-site"):
            assert await status("POST", "/api/order", sec_fetch_site=site) == 403, site
        assert await status(sec_fetch_site="cross-site") == 200, "a link from elsewhere may lead here"


@pytest.mark.asyncio
async def test_every_answer_has_the_strict_headers(console_app: App, cb_pool: Any) -> None:
    async with client_of(with_routes(console_app, cb_pool)) as client:
        answers = [await client.get(path) for path in ("/", "/nowhere", "/static/console/console.js", "/openapi.json")]
        answers.append(await client.get("/", headers={"host": "evil.example"}))
        answers.append(await client.post("/order", data={"what": "tea"}))
        with pytest.raises(ValueError, match="secret detail"):  # after the answer, for the log
            await client.get("/broken")
    for answer in answers:
        assert answer.headers["content-security-policy"].startswith(STRICT), answer.url
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
    assert [answer.status_code for answer in answers] == [200, 404, 200, 200, 400, 403]


@pytest.mark.asyncio
async def test_what_failed_inside_is_not_told_outside(console_app: App, cb_pool: Any) -> None:
    transport = httpx.ASGITransport(with_routes(console_app, cb_pool), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/broken", headers={"accept": "text/html"})
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert answer.headers["content-security-policy"].startswith(STRICT)


@pytest.mark.asyncio
async def test_a_form_needs_the_token_of_its_session_also_where_a_route_forgot_to_ask(
    console_app: App, cb_pool: Any
) -> None:
    asgi = with_routes(console_app, cb_pool)
    async with client_of(asgi) as client, client_of(asgi) as other:
        token = token_of(await client.get("/"))
        others = token_of(await other.get("/"))
        assert token != others

        async def order(csrf_token: str | None, **headers: str) -> int:
            data = {"what": "tea"} | ({} if csrf_token is None else {"csrf_token": csrf_token})
            return (await client.post("/order", data=data, headers=headers)).status_code

        assert await order(token) == 200
        assert await order(None, **{"x-csrf-token": token}) == 200
        for wrong in (None, "", others, token + "x", "ä"):
            assert await order(wrong) == 403, wrong
        assert await order(token, **{"x-csrf-token": others}) == 403
        assert await order(token, origin="http://evil.example") == 403
        files = {"what": (None, "tea"), "csrf_token": (None, token)}
        assert (await client.post("/order", files=files)).status_code == 403, "only the header serves here"
        client.cookies.clear()
        assert await order(token) == 403, "a token is nothing without its session"


@pytest.mark.asyncio
async def test_every_form_of_the_console_itself_needs_a_token(console_app: App, cb_pool: Any) -> None:
    asgi = create_console(console_app, cb_pool)
    posts = {path for path, methods in all_routes(asgi) if methods - {"GET", "HEAD", "OPTIONS"}}
    assert {"/sign-in", "/sign-out"} <= posts
    async with client_of(asgi) as client:
        for path in posts:
            answer = await client.post(
                re.sub(r"\{\w+(:\w+)?\}", "00000000-0000-0000-0000-000000000000", path), data={"a": "b"}
            )
            assert answer.status_code == 403, path
            assert "not valid any more" in answer.text


def all_routes(asgi: FastAPI) -> list[tuple[str, set[str]]]:
    """Every path of an application with its methods, those of included routers too."""
    found, todo = [], list(asgi.routes)
    while todo:
        route = todo.pop()
        todo += getattr(getattr(route, "original_router", None), "routes", [])
        if getattr(route, "methods", None):
            found.append((route.path, set(route.methods)))
    return found


@pytest.mark.asyncio
async def test_a_body_has_a_limit_announced_or_not(console_app: App, cb_pool: Any) -> None:
    async with client_of(with_routes(console_app, cb_pool, max_body=1_000)) as client:
        token = token_of(await client.get("/"))

        async def pieces() -> Any:
            for _ in range(20):
                yield b"x" * 100

        assert (await client.post("/order", content=b"x" * 1_001, headers=FORM)).status_code == 413
        assert (await client.post("/order", content=pieces(), headers=FORM)).status_code == 413
        assert (
            await client.post("/api/order", content=pieces(), headers={"content-type": "application/json"})
        ).status_code == 413
        for length in ("-1", "many", "9" * 40):
            headers = {**FORM, "content-length": length}
            assert (await client.post("/order", content=b"", headers=headers)).status_code == 413, length
        assert (await client.post("/order", data={"what": "t" * 900, "csrf_token": token})).status_code == 200


def test_without_authentication_only_this_machine_gets_a_console() -> None:
    users = Users({"anna": hash_password("correct horse")})
    for host in ("bus.example.org", "192.0.2.1", "[2001:db8::1]", "127.0.0.1.example.org"):
        with pytest.raises(NotAuthenticatedError, match="--users"):
            ConsoleSettings(allowed_hosts=("localhost", host))
        assert ConsoleSettings(allowed_hosts=(host,), auth=users).allowed_hosts == (host,)
    assert ConsoleSettings(allowed_hosts=("127.9.9.9", "LOCALHOST", "[::1]")).auth is None
    with pytest.raises(ValueError, match="at least 16"):
        ConsoleSettings(secret="short")
    assert "secret=" not in repr(ConsoleSettings())


@pytest.mark.asyncio
async def test_it_neither_listens_nor_answers_on_another_address_without_authentication(
    console_app: App, cb_pool: Any
) -> None:
    asgi = create_console(console_app, cb_pool)
    for host in ("0.0.0.0", "::", "192.0.2.1"):  # noqa: S104  it refuses them
        with pytest.raises(NotAuthenticatedError):
            await serve(asgi, host=host, port=0)

    async def from_afar(scope: Any, receive: Any, send: Any) -> None:  # as a server on all addresses says it
        await asgi({**scope, "server": ("192.0.2.1", 8080)}, receive, send)

    async with client_of(from_afar) as client:
        answer = await client.get("/")
    assert answer.status_code == 403
    assert "loopback" in answer.text


@pytest.mark.asyncio
async def test_what_the_database_refuses_is_told_to_people_and_to_programs(
    console_app: App, cb_database: Database, cb_postgres: str
) -> None:
    refusing = [  # where, status, what is wrong, how to mend it
        (make_conninfo(cb_database.dsn, options="-c role=pg_monitor"), 403, "permission denied", "commandbus_operator"),
        (cb_postgres, 503, "does not exist", "commandbus migrate"),
    ]
    for conninfo, status, *parts in refusing:
        async with AsyncConnectionPool(conninfo, min_size=0, max_size=1, open=False) as pool:
            async with client_of(create_console(console_app, pool)) as client:
                page = await client.get("/troubleshooting")
                told = await client.get("/troubleshooting", headers={"accept": "application/json"})
        assert page.status_code == told.status_code == status, page.text
        for part in parts:
            assert part in page.text
            assert part in told.json()["detail"]


@pytest.mark.asyncio
async def test_a_wrong_address_method_or_form_is_told_in_our_words(console_app: App, cb_pool: Any) -> None:
    async with client_of(with_routes(console_app, cb_pool)) as client:
        token = token_of(await client.get("/"))
        nowhere, wrong_way = (
            await client.get("/nowhere"),
            await client.request("PUT", "/", headers={"x-csrf-token": token}),
        )
        incomplete = await client.post("/order", headers=FORM, content=f"csrf_token={token}")
    assert (nowhere.status_code, "There is no page at this address" in nowhere.text) == (404, True)
    assert (wrong_way.status_code, "does not take this method" in wrong_way.text) == (405, True)
    assert (incomplete.status_code, "not understood: what. Go back" in incomplete.text) == (422, True), incomplete.text


@pytest.mark.asyncio
async def test_a_password_in_the_connection_string_is_not_shown(console_app: App) -> None:
    conninfo = "postgresql://anna:s3same-open@db.example/shop"
    pool: AsyncConnectionPool[Any] = AsyncConnectionPool(conninfo, open=False)
    asgi = create_console(console_app, pool)
    async with client_of(asgi) as client:
        answer = await client.get("/")
    assert answer.status_code == 503, "a pool that is not open has no connection"
    assert "s3same" not in answer.text
    assert "s3same" not in shown_database(pool)
    assert "db.example" in shown_database(pool)
