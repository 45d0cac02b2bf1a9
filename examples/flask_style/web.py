"""The shop's web application: plain WSGI, one thread for each request. Start it with `python web.py PORT`.

In Flask the views below would be decorated with routes; `bus` would be as global there, also under a server that forks.
"""

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from uuid import UUID
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

import psycopg
from shop import OrderProcess, app

from commandbus import CommandBusError, uuid7
from commandbus.sync import SyncCommandBus

DSN = os.environ["SHOP_DSN"]
bus = SyncCommandBus(DSN, app=app)  # opened by the first request that needs it, and once in each process

Answer = tuple[str, Any]


def place_order(asked: dict[str, Any]) -> Answer:
    """The order and its process commit together: the bus takes part in the view's own transaction."""
    with psycopg.connect(DSN) as conn:
        row = conn.execute(
            "INSERT INTO orders (customer, cents) VALUES (%s, %s) RETURNING order_id",
            (asked["customer"], asked["cents"]),
        ).fetchone()
        order_id = row[0] if row else 0
        process_id = bus.process(OrderProcess).start(asked | {"order_id": order_id}, conn=conn)
        conn.execute("UPDATE orders SET process_id = %s WHERE order_id = %s", (process_id, order_id))
    return "202 Accepted", {"order_id": order_id, "look_at": f"/orders/{order_id}"}


def show_order(order_id: str) -> Answer:
    with bus.transaction() as conn:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")  # both as of one moment
        found = conn.execute("SELECT process_id, parcel FROM orders WHERE order_id = %s", (int(order_id),)).fetchone()
        process = found and bus.processes.get(found[0], conn=conn)
    if not found or process is None:
        return "404 Not Found", {"error": "there is no such order"}
    steps = [f"{entry.step} {entry.status}" for entry in bus.processes.get_audit_trail(process.process_id)]
    return "200 OK", {"status": process.status, "parcel": found[1], "error": process.error_message, "steps": steps}


def print_receipt(asked: dict[str, Any]) -> Answer:
    """Send a command, and wait for its answer, but no longer than an HTTP client would."""
    replies = bus.replies(f"web-{uuid7()}")
    command_id = uuid7()
    bus.send(domain="shop", command_type="PrintReceipt", command_id=command_id, data=asked, reply_to=replies.reply_to)
    patience = threading.Timer(10, replies.stop)
    patience.start()
    for group in replies.listen(poll_interval=0.05, listen=False):
        patience.cancel()
        replies.acknowledge(group)
        return "200 OK", {"outcome": group[0].outcome, "result": group[0].result, "error": group[0].error_message}
    return "504 Gateway Timeout", {"error": "no worker has done it yet", "command_id": command_id}


def list_parked() -> Answer:
    page = bus.troubleshooting.list_troubleshooting("shop")
    return "200 OK", [
        {"command_id": item.command_id, "command_type": item.command_type, "error": item.error_message}
        for item in page.items
    ]


def retry(asked: dict[str, Any], command_id: str) -> Answer:
    bus.troubleshooting.operator_retry(UUID(command_id), operator="web", reason=asked.get("reason", ""))
    return "202 Accepted", {}


ROUTES: list[tuple[str, str, Callable[..., Answer]]] = [
    ("POST", r"/orders", place_order),
    ("GET", r"/orders/(\d+)", show_order),
    ("POST", r"/receipts", print_receipt),
    ("GET", r"/parked", list_parked),
    ("POST", r"/parked/([0-9a-f-]{36})/retry", retry),
]


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Find the view, give it the request's JSON and the parts of its path, answer in JSON."""
    status, body = "404 Not Found", {"error": "there is no such page"}
    for method, pattern, view in ROUTES:
        found = re.fullmatch(pattern, environ["PATH_INFO"])
        if found and environ["REQUEST_METHOD"] == method:
            try:
                status, body = view(*_asked(environ), *found.groups())
            except (
                KeyError,
                TypeError,
                ValueError,
                psycopg.DataError,
                psycopg.IntegrityError,
                CommandBusError,
            ) as error:
                status, body = "400 Bad Request", {"error": f"{type(error).__name__}: {error}"}
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(body, default=str).encode()]


def _asked(environ: WSGIEnvironment) -> list[dict[str, Any]]:
    if environ["REQUEST_METHOD"] != "POST":
        return []
    return [json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)) or b"{}")]


class ThreadingServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 128  # the standard library's 5 turns clients away that come at the same time


class QuietHandler(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None: ...


def main() -> None:
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    host = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
    with bus, make_server(host, port, application, ThreadingServer, QuietHandler) as server:
        print(f"listening on http://{host}:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
