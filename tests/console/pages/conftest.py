"""The console of an application whose work went well, went wrong, and waits for an operator."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from commandbus import App
from commandbus.web import create_console
from tests.console.conftest import client_of
from tests.console.pages.reading import Reader
from tests.console.shop import Played, Pool, fill, make_shop


@pytest.fixture
def console_app() -> App:
    return make_shop()


@pytest_asyncio.fixture
async def played(console_app: App, cb_pool: Pool) -> Played:
    return await fill(console_app, cb_pool)


@pytest_asyncio.fixture
async def reader(console_app: App, cb_pool: Pool) -> AsyncIterator[Reader]:
    async with client_of(create_console(console_app, cb_pool)) as client:
        yield Reader(client)
