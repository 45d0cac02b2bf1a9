"""One trace from the sender through handlers, retries, steps and replies, as a collector receives it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from uuid import UUID, uuid4

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer

from commandbus import Command, CommandBus, HandlerContext, ReceivedReply, ReplyQueue, TransientCommandError
from commandbus.tracing import Tracing
from tests.integration.process_kit import make_manager
from tests.integration.worker_kit import Bench, eventually

pytestmark = pytest.mark.asyncio


@contextmanager
def collector() -> Iterator[tuple[str, list[Any]]]:
    """A receiver of OTLP over HTTP on loopback: its address, and the spans that came."""
    spans: list[Any] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Not on the test's stderr."""

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
        finally:
            server.shutdown()
            thread.join()


async def an_order_and_a_question(bench: Bench, tracing: Tracing, tracer: Tracer) -> tuple[UUID, ReceivedReply]:
    """Run a process of three steps, of which one is tried twice, and a command that is asked for; returns its reply."""
    bus, manager = CommandBus(bench.pool, headers=tracing.headers), make_manager(bench)
    manager.headers = tracing.headers

    def does(step: str) -> None:
        @bench.handler(step)
        def handle(command: Command, context: HandlerContext) -> None:  # in a thread, which has the span too
            with tracer.start_as_current_span(f"work {step}"):
                if step == "Pay" and context.attempt == 1:
                    raise TransientCommandError("BUSY", "once more")

    for step in ("Reserve", "Pay", "Ship"):
        does(step)
    queue = ReplyQueue(bench.pool, f"shop-{bench.domain}")
    with tracer.start_as_current_span("order"):
        process_id = await manager.start({})
    with tracer.start_as_current_span("ask"):
        asked = uuid4()
        await bus.send(domain=bench.domain, command_type="Ship", command_id=asked, data={}, reply_to=queue.reply_to)
    async with bench.worker(middleware=[tracing], processes=[manager]):
        await bench.until(asked)
        (reply,) = await queue.receive()

        async def look() -> bool | None:
            statement = "SELECT completed_at FROM commandbus.process WHERE process_id = %s"
            return True if (await bench.execute(statement, process_id))[0][0] is not None else None

        await eventually(look, "the process to end", patience=60)
    return process_id, reply


async def test_a_collector_sees_one_tree_from_the_sender_to_the_last_step_and_the_reply(bench: Bench) -> None:
    with collector() as (address, spans):
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(address)))
        tracing, tracer = Tracing(tracer_provider=provider), provider.get_tracer("shop")
        process_id, reply = await an_order_and_a_question(bench, tracing, tracer)
        with tracing.reply(reply), tracer.start_as_current_span("answered"):
            pass
        provider.shutdown()  # waits for what is not exported yet

    assert tree(spans, "order") == (
        "order",
        [("send Reserve", [("process Reserve", [
            ("process Pay", [("process Ship", [("work Ship", [])]), ("work Pay", [])]),
            ("process Pay", [("work Pay", [])]),
            ("work Reserve", []),
        ])])],
    )  # fmt: skip
    assert tree(spans, "ask") == (
        "ask",
        [("send Ship", [("process Ship", [("receive reply", [("answered", [])]), ("work Ship", [])])])],
    )
    failed = [span for span in spans if span.status.code == 2]  # ERROR
    assert sorted(span.name for span in failed) == ["process Pay", "work Pay"]
    (attributes,) = [
        {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
        for span in failed
        if span.name == "process Pay"
    ]
    assert attributes == {
        "messaging.system": "commandbus",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": bench.domain,
        "messaging.message.id": attributes["messaging.message.id"],
        "messaging.message.conversation_id": str(process_id),
        "commandbus.command_type": "Pay",
        "commandbus.attempt": 1,
        "commandbus.process_id": str(process_id),
        "commandbus.step": "Pay",
    }


def tree(spans: list[Any], root: str) -> tuple[str, list[Any]]:
    """The trace that begins with the span `root`, as (name, its children); every span of it hangs in it."""
    (first,) = [span for span in spans if span.name == root]
    of_trace = [span for span in spans if span.trace_id == first.trace_id]

    def below(span: Any) -> tuple[str, list[Any]]:
        return span.name, sorted(below(child) for child in of_trace if child.parent_span_id == span.span_id)

    def count(node: tuple[str, list[Any]]) -> int:
        return 1 + sum(map(count, node[1]))

    found = below(first)
    assert count(found) == len(of_trace), [span.name for span in of_trace]
    return found
