"""What `commandbus worker --no-listen` leaves out for a proxy that pools transactions."""

import signal
from pathlib import Path

import pytest

from commandbus import migrate

from .cli_kit import send, status, wait_until_done, worker

APP = """
from commandbus import App

app = App()

@app.handler("orders", "Ask")
async def ask(command, context):
    async with context.pool.connection() as conn:
        for _ in range(10):
            await conn.execute("SELECT 'often enough to be prepared'")
        cursor = await conn.execute("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%often enough%'")
        return {"prepared": (await cursor.fetchone())[0]}
"""


@pytest.mark.parametrize(("options", "prepared"), [((), 1), (("--no-listen",), 0)])
def test_no_listen_prepares_no_statements(
    options: tuple[str, ...], prepared: int, tmp_path: Path, empty_dsn: str
) -> None:
    migrate(empty_dsn)
    (tmp_path / "asking.py").write_text(APP)
    with worker(tmp_path, empty_dsn, *options, "--poll-interval", "0.05", application="asking:app") as running:
        command = send(empty_dsn, "orders", "Ask")
        wait_until_done(empty_dsn, command)
        assert running.end(signal.SIGTERM)[0] == 0
    assert status(empty_dsn, command) == ("COMPLETED", {"prepared": prepared})
