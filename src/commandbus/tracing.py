"""OpenTelemetry traces, from the sender through the handler to the reply and the next step. Needs the extra `otel`.

One `Tracing` object serves both sides: `CommandBus(pool, headers=tracing.headers)` and process managers, made likewise,
on the sender's; `Worker(..., middleware=[tracing])`, or `commandbus worker --middleware commandbus.tracing:Tracing`, on
the other. The context travels in the command's headers, in the form that the global propagator writes (W3C's
traceparent unless it was set otherwise).
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

try:
    from opentelemetry import propagate, trace
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(
        "commandbus.tracing needs OpenTelemetry: pip install 'pytest-commandbus[otel]'", name=missing.name
    ) from None

from commandbus.handler import HandlerContext, Middleware, Result
from commandbus.models import ReceivedReply

_SYSTEM = {"messaging.system": "commandbus"}


class Tracing(Middleware):
    """Spans: `send TYPE` for each command that is sent, `process TYPE` for each attempt, `receive reply` for a reply.

    The first argument, which `--middleware` gives, is not needed. `tracer_provider` is the global one when left out.
    """

    def __init__(self, pool: object = None, *, tracer_provider: trace.TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("commandbus", tracer_provider=tracer_provider)

    def headers(self, domain: str, command_type: str) -> dict[str, str]:
        """A span for a command that is about to be sent, below the current one; returns what carries it on."""
        attributes = _SYSTEM | {
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": domain,
            "commandbus.command_type": command_type,
        }
        kind = trace.SpanKind.PRODUCER
        with self._tracer.start_as_current_span(f"send {command_type}", kind=kind, attributes=attributes):
            carrier: dict[str, str] = {}
            propagate.inject(carrier)
        return carrier

    async def handle(self, context: HandlerContext, call_next: Callable[[], Awaitable[Result]]) -> Result:
        """A span for an attempt; what the handler does, its reply and its process's next command are below it."""
        command = context.command
        attributes: dict[str, str | int] = {
            **_SYSTEM,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": command.domain,
            "messaging.message.id": str(command.command_id),
            "commandbus.command_type": command.command_type,
            "commandbus.attempt": context.attempt,
        }
        if command.correlation_id is not None:
            attributes["messaging.message.conversation_id"] = str(command.correlation_id)
        if context.process_id is not None and context.step is not None:
            attributes |= {"commandbus.process_id": str(context.process_id), "commandbus.step": context.step}
        with self._tracer.start_as_current_span(
            f"process {command.command_type}",
            context=propagate.extract(context.headers),
            kind=trace.SpanKind.CONSUMER,
            attributes=attributes,
        ):
            propagate.inject(context.headers)
            return await call_next()

    @contextmanager
    def reply(self, reply: ReceivedReply) -> Iterator[trace.Span]:
        """`with tracing.reply(reply):` around what a reply leads to: a span below that of the handler that left it."""
        attributes = _SYSTEM | {
            "messaging.operation.name": "receive",
            "messaging.operation.type": "receive",
            "messaging.message.id": str(reply.command_id),
            "commandbus.outcome": str(reply.outcome),
        }
        with self._tracer.start_as_current_span(
            "receive reply",
            context=propagate.extract(reply.headers),
            kind=trace.SpanKind.CONSUMER,
            attributes=attributes,
        ) as span:
            yield span
