"""What all tests share: leads in the database, the web application on a real port, users."""

import asyncio
import dataclasses
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

# The application under test, and its worker processes, read these when they are imported.
_FOLDER = Path(tempfile.mkdtemp(prefix="report-runner-"))
os.environ |= {"BATCH_DATA": str(_FOLDER), "BATCH_PROVIDER_LATENCY": "0.001", "BATCH_SECRET": "a secret of the tests"}

import httpx  # noqa: E402
import hypothesis  # noqa: E402
import pytest  # noqa: E402
import pytest_asyncio  # noqa: E402
import uvicorn  # noqa: E402
from batch_report_runner.batches import OPEN  # noqa: E402
from batch_report_runner.database import prepare  # noqa: E402
from batch_report_runner.settings import Settings  # noqa: E402
from batch_report_runner.web import create_web  # noqa: E402

hypothesis.settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("busy machine")
ANN, BOB = "token-of-ann", "token-of-bob"
LEADS = 1200


@pytest.fixture
def settings() -> Settings:
    """Those of the environment, with two users, and limits that no other test meets."""
    return dataclasses.replace(
        Settings.from_env(),
        users={ANN: "ann", BOB: "bob"},
        previews_per_minute=100_000,
        starts_per_minute=100_000,
        data=_FOLDER,
    )


def pytest_unconfigure() -> None:
    """Remove the reports that the tests have made."""
    shutil.rmtree(_FOLDER, ignore_errors=True)


class Site:
    """A web application that runs: where it is, what it is made of, and clients of it."""

    def __init__(self, url: str, web) -> None:
        self.url = url
        self.web = web
        self.state = web.state

    def client(self, token: str | None = ANN) -> httpx.AsyncClient:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        # Without `verify` each client would read all certificates of the world: most of what a test cost.
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=120, verify=False)

    async def start(self, count: int = 10, token: str = ANN, first: int = 1, **more) -> dict:
        """Preview and start a batch of the leads from `first` on, as the page does."""
        asked = {"lead_ids": list(range(first, first + count)), "template_version": "v1"} | more
        async with self.client(token) as client:
            quote = (await client.post("/api/batch/preview", json=asked)).raise_for_status().json()
            begun = await client.post("/api/batch/start", json=asked | {"accepted_cost": quote["total_cost"]})
            return begun.raise_for_status().json()

    async def status(self, batch_id: str, token: str = ANN) -> dict:
        async with self.client(token) as client:
            return (await client.get(f"/api/batch/{batch_id}/status")).raise_for_status().json()

    async def until(self, batch_id: str, holds: Callable[[dict], bool] | None = None) -> dict:
        """Wait for a status that holds, or any final one; returns it."""
        holds = holds or (lambda state: state["status"] not in OPEN)
        async with asyncio.timeout(240), self.client() as client:
            while True:
                answer = await client.get(f"/api/batch/{batch_id}/status")
                if answer.status_code == 200 and holds(answer.json()):
                    return answer.json()
                await asyncio.sleep(0.1)  # a status is up to 0.25 seconds old anyway


@asynccontextmanager
async def serving(settings: Settings, dsn: str, **options) -> AsyncIterator[Site]:
    """Run the web application on a port of its own while the block runs."""
    web = create_web(settings, dsn, **options)
    config = uvicorn.Config(
        web, port=0, log_level="warning", ws="websockets-sansio", proxy_headers=True, timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None
    task = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(60):
            while not server.started:
                await asyncio.sleep(0.01)
                if task.done():
                    task.result()
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Site(f"http://127.0.0.1:{port}", web)
    finally:
        server.should_exit = True
        await task


@pytest.fixture
def leads_dsn(cb_database) -> str:
    """The test's database, with leads."""
    prepare(cb_database.dsn, leads=LEADS)
    return cb_database.dsn


@pytest_asyncio.fixture
async def site(settings, leads_dsn) -> AsyncIterator[Site]:
    """The web application, with its upkeep; the test starts the workers."""
    async with serving(settings, leads_dsn) as running:
        yield running
