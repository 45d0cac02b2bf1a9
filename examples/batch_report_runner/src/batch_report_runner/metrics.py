"""What Prometheus is told. A registry of its own, so that several applications fit one process."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCIES = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """The figures of one web process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        count = partial(Counter, registry=registry)
        self.started = count("report_batches_started", "Batches that were started here.")
        self.ended = count("report_batches_ended", "Batches that ended, by status.", ["status"])
        self.leads = count("report_leads_ended", "Leads of ended batches, by status.", ["status"])
        self.refused = count("report_requests_refused", "Requests refused, by code.", ["code"])
        self.alerts = count("report_budget_alerts", "Crossings of the daily budget, by percent.", ["level"])
        self.sockets = Gauge("report_websocket_connections", "Open WebSocket connections.", registry=registry)
        self.dropped = count("report_websockets_dropped", "Clients dropped for being slow.")
        self.messages = count("report_websocket_messages", "Progress messages sent.")
        self.upkeep_errors = count("report_upkeep_errors", "Rounds of the upkeep that failed.")
        self.requests = Histogram(
            "report_request_seconds", "Time to answer, by route.", ["route"], buckets=LATENCIES, registry=registry
        )

    def text(self) -> bytes:
        """In the format of Prometheus."""
        text: bytes = generate_latest(self.registry)
        return text
