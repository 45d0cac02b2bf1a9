"""The program as its users run it, killed and started again in the middle of a batch."""

import asyncio
import os
import signal
import socket
import subprocess
import sys

import httpx
import psycopg
import pytest
from conftest import ANN
from test_chaos import SOUND


class Program:
    """`python -m batch_report_runner`, in a process group of its own."""

    def __init__(self, dsn: str, port: int, data: str, log) -> None:
        self._command = [sys.executable, "-m", "batch_report_runner", "--dsn", dsn, "--port", str(port), "--workers=1"]
        self._env = os.environ | {
            "BATCH_USERS": f"ann:{ANN}",
            "BATCH_DATA": data,
            "BATCH_PROVIDER_LATENCY": "0.2",
            "BATCH_PARALLEL": "5",
        }
        self._log = log
        self._process = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, env=self._env, stdout=self._log, stderr=self._log, start_new_session=True
        )

    def kill(self) -> None:
        """SIGKILL for the web server and the workers alike."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(60)
        with pytest.raises(ProcessLookupError):  # no worker is left behind
            os.killpg(self._process.pid, 0)
        return status


@pytest.mark.slow
async def test_a_batch_goes_on_after_all_of_it_was_killed(leads_dsn, cb_pool, cb_clock, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (tmp_path / "log").open("w") as log:
        program = Program(leads_dsn, port, str(tmp_path), log)
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {ANN}"}, timeout=60
        ) as client:

            async def ask(path: str) -> dict | None:
                try:
                    answer = await client.get(path)
                except httpx.TransportError:
                    return None
                return answer.json() if answer.status_code == 200 else None

            async def until(path: str, holds, patience: float = 120) -> dict:
                async with asyncio.timeout(patience):
                    while (state := await ask(path)) is None or not holds(state):
                        await asyncio.sleep(0.1)
                return state

            program.start()
            try:
                await until("/api/templates", bool)
                asked = {"lead_ids": list(range(1, 61)), "template_version": "v1"}
                quote = (await client.post("/api/batch/preview", json=asked)).json()
                begun = await client.post("/api/batch/start", json=asked | {"accepted_cost": quote["total_cost"]})
                path = f"/api/batch/{begun.json()['batch_id']}/status"
                before = await until(path, lambda state: state["succeeded"] >= 5)
                assert before["status"] == "PROCESSING"
            finally:
                program.kill()
            program.start()
            try:
                await until("/api/templates", bool)
                await cb_clock.advance(31)  # the leases of the killed worker have run out
                ended = await until(path, lambda state: state["status"] not in ("PENDING", "PROCESSING"))
            finally:
                assert program.stop() == 0
    assert (ended["status"], ended["succeeded"], ended["failed"]) == ("COMPLETED", 60, 0)
    with psycopg.connect(leads_dsn) as conn:
        assert conn.execute(SOUND).fetchone() == (0, 0, 0, 0)
        assert conn.execute("SELECT count(*) FROM report.charge").fetchone() == (60,)
