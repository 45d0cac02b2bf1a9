"""The E2E application on a test's database: a client of it, and its files apart."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from psycopg_pool import AsyncConnectionPool

from tests.e2e.app.asgi import create_asgi
from tests.e2e.app.files import VARIABLE

PATIENCE = 60.0  # seconds until a test gives up waiting


@pytest.fixture
def own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the files of this test's workers apart."""
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path


@pytest_asyncio.fixture
async def api(cb_pool: AsyncConnectionPool[Any]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application on the test's database; the audit at the end looks at what it did."""
    asgi = create_asgi(cb_pool)
    transport = httpx.ASGITransport(asgi)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=PATIENCE) as client:
        yield client
    await asgi.state.services.creator.close()
