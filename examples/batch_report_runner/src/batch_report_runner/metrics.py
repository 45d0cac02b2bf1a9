"""What Prometheus is told. A registry of its own, so that several applications fit one process."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LATENCIES = (0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """The figures of one web process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.started = Counter("report_batches_started", "Batches that were started here.", **own)
        self.ended = Counter("report_batches_ended", "Batches that ended, by status.", ["status"], **own)
        self.leads = Counter("report_leads_ended", "Leads of ended batches, by status.", ["status"], **own)
        self.refused = Counter("report_requests_refused", "Requests refused, by code.", ["code"], **own)
        self.alerts = Counter("report_budget_alerts", "Crossings of the daily budget, by percent.", ["level"], **own)
        self.sockets = Gauge("report_websocket_connections", "Open WebSocket connections.", **own)
        self.dropped = Counter("report_websockets_dropped", "Clients dropped for being slow.", **own)
        self.messages = Counter("report_websocket_messages", "Progress messages sent.", **own)
        self.upkeep_errors = Counter("report_upkeep_errors", "Rounds of the upkeep that failed.", **own)
        self.requests = Histogram(
            "report_request_seconds", "Time to answer, by route.", ["route"], buckets=LATENCIES, **own
        )

    def text(self) -> bytes:
        """In the format of Prometheus."""
        return generate_latest(self.registry)
