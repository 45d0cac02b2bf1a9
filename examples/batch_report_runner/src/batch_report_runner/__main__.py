"""`python -m batch_report_runner`: the web server and the workers, on a PostgreSQL of its own unless one is named."""

import argparse
import asyncio
import contextlib
import dataclasses
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator

import uvicorn

from .database import prepare, take_back
from .operating import end_all, set_starting
from .settings import DEMO_USER, Settings
from .web import create_web

STOP_SECONDS = 30


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="batch_report_runner", description=__doc__)
    parser.add_argument(
        "action", nargs="?", default="serve", choices=["serve", "disable", "enable", "rollback"],
        help="serve (default); disable and enable: refuse and take new batches; rollback: disable, end what runs, "
        "and take the application's migrations back",
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--workers", type=int, default=2, help="worker processes; 0 for a web server alone")
    parser.add_argument("--dsn", default=os.environ.get("DATABASE_URL", ""), help="default: DATABASE_URL")
    asked = parser.parse_args(arguments)
    try:
        settings = Settings.from_env()
    except ValueError as error:
        parser.error(str(error))
    if asked.action == "serve":
        with _database(asked.dsn) as dsn:
            return _serve(settings, dsn, asked.host, asked.port, asked.workers)
    if not asked.dsn:
        parser.error("name the database by --dsn or DATABASE_URL")
    if asked.action in ("disable", "enable"):
        asyncio.run(set_starting(asked.dsn, asked.action == "enable"))
        return 0
    left = asyncio.run(end_all(asked.dsn, settings))
    if left:
        print(f"{left} batches still run: let a worker finish what is in flight, and try again", file=sys.stderr)
        return 1
    take_back(asked.dsn)
    print("rolled back: no batch runs, and the schema report is gone; reports on disk are kept")
    return 0


@contextlib.contextmanager
def _database(dsn: str) -> Iterator[str]:
    """The database that was named, or an embedded one whose data ends with this process."""
    if dsn:
        yield dsn
        return
    from pytest_commandbus.embedded import EmbeddedPostgres

    with EmbeddedPostgres() as server:
        print("no DATABASE_URL: a PostgreSQL of its own, whose data is lost at the end", flush=True)
        yield server.dsn()


def _serve(settings: Settings, dsn: str, host: str, port: int, workers: int) -> int:
    prepare(dsn)
    if not settings.users:
        token = secrets.token_urlsafe(16)
        settings = dataclasses.replace(settings, users={token: DEMO_USER})
        print(f"no BATCH_USERS: user {DEMO_USER}, token {token}", flush=True)
    web = create_web(settings, dsn)
    config = uvicorn.Config(
        web, host=host, port=port, log_level="warning", proxy_headers=True,
        forwarded_allow_ips=settings.trusted_proxies, ws="websockets-sansio", ws_per_message_deflate=True,
        timeout_graceful_shutdown=5,
    )  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again once it has stopped
        signal.signal(number, _end)
    with _workers(settings, dsn, workers):
        print(f"listening on http://{host}:{port}", flush=True)
        uvicorn.Server(config).run()
    return 0


def _end(*_: object) -> None:
    raise SystemExit(0)


@contextlib.contextmanager
def _workers(settings: Settings, dsn: str, count: int) -> Iterator[None]:
    """The bus's own worker command, over so many processes; together they run `parallel` leads at a time."""
    if not count:
        yield
        return
    concurrency = max(1, settings.parallel // count)
    command = ["nice", "-n", str(settings.worker_niceness)]  # whoever waits for a page goes before the reports
    command += [sys.executable, "-m", "commandbus", "worker", "batch_report_runner.app:app"]
    command += [f"--processes={count}", f"--concurrency={concurrency}"]
    process = subprocess.Popen(command, env={**os.environ, "COMMANDBUS_DSN": dsn})
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
