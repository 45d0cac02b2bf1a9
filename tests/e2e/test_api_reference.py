"""docs/reference/http-api.md tells every route of the console and of the example, and nothing that is none."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg_pool import AsyncConnectionPool
from starlette.routing import Mount, Route

from tests.console.conftest import client_of
from tests.e2e.app.asgi import create_asgi

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "http-api.md").read_text(encoding="utf-8")
ROUTE = re.compile(r"^\| `([A-Z]+ /\S*)` \| (.*) \|$", re.MULTILINE)


@pytest.fixture
def asgi(cb_pool: AsyncConnectionPool[Any]) -> Any:
    return create_asgi(cb_pool)


def told(heading: str) -> dict[str, list[str]]:
    """The rows of the table of routes below a heading: each route with its other columns."""
    _, _, section = PAGE.partition(f"\n{heading}\n")
    return {name: rest.split("|") for name, rest in ROUTE.findall(section.partition("\n##")[0])}


def all_routes(routes: Iterable[Any]) -> Iterator[str]:
    for route in routes:
        included = getattr(route, "original_router", None)
        if included is not None:
            yield from all_routes(included.routes)
        elif not isinstance(route, Mount):
            path = re.sub(r":uuid\}", "}", route.path)
            methods = (route.methods or set()) - {"HEAD"} if isinstance(route, Route) else {"WEBSOCKET"}
            yield from (f"{method} {path}" for method in methods)


def names(text: str) -> set[str]:
    return set(re.findall(r"`([\w.]+)`", text))


def test_every_route_is_told_and_no_other(asgi: Any) -> None:
    listed = [name for name, _ in ROUTE.findall(PAGE)]
    assert sorted([*listed, "GET /openapi.json"]) == sorted(all_routes(asgi.routes))


def test_the_json_api_is_told_as_its_document_has_it(asgi: Any) -> None:
    document = asgi.openapi()
    rows = told("## The JSON API of the example")
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert rows.keys() == operations.keys()
    for route, operation in operations.items():
        parameters, body, answers = rows[route]
        assert names(parameters) == {one["name"] for one in operation.get("parameters", ())}, route
        assert names(body) == schemas(operation.get("requestBody", {})), route
        codes = {int(code) for code in re.findall(r"(?<![\w`,])[2-5]\d\d(?!\w|,\d)", answers)}
        assert codes | {400, 403, 413} == {int(code) for code in operation["responses"]}, route
        good = {code: answer for code, answer in operation["responses"].items() if code[0] == "2"}
        assert {name for name in names(answers) if name[0].isupper()} == schemas(good), route


def test_every_field_of_a_body_is_told_and_whether_it_may_be_left_out(asgi: Any) -> None:
    document = asgi.openapi()["components"]["schemas"]
    bodies = {name: schema for name, schema in document.items() if "properties" in schema and "Validation" not in name}
    rows = dict(re.findall(r"^\| `([A-Z]\w+)` \| (.*) \|$", PAGE, re.MULTILINE))
    assert rows.keys() == bodies.keys()
    for name, schema in bodies.items():
        text = re.sub(r"\([^()]*\)|https?:.*", "", rows[name])
        fields = {field for field in names(text) if field[0].islower() and ".md" not in field}
        if "all of `ProcessSummary`" in text:
            fields |= names(rows["ProcessSummary"])
        assert fields == schema["properties"].keys(), name
        optional = set(re.findall(r"\*`(\w+)`\*", text))
        assert optional <= fields, name
        if name.endswith("Request") or "Behavior" in name:
            assert fields - optional == set(schema.get("required", ())), name


async def test_every_filter_of_a_list_is_told(asgi: Any) -> None:
    rows = told("## The console")
    filtered = {route: names(row[0]) - {"limit", "cursor"} for route, row in rows.items() if "`cursor`" in row[0]}
    assert len(filtered) == 8
    async with client_of(asgi) as client:
        for route, filters in filtered.items():
            if "{" not in route:
                page = await client.get(route.removeprefix("GET "))
                assert page.status_code == 200
                assert filters == set(re.findall(r'id="filter-(\w+)"', page.text)), route


def schemas(part: Any) -> set[str]:
    """The names of the schemas that a part of the document refers to itself."""
    return set(re.findall(r"#/components/schemas/(\w+)", str(part)))
