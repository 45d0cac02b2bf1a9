"""The application on the bus: `commandbus worker batch_report_runner.app:app` works for it, and the tests test it."""

from commandbus import App, RetryPolicy

from .handlers import LeadHandlers, MailHandlers
from .process import LeadReportProcess
from .settings import Settings

BACKOFF = (1, 2, 4, 8, 16, 32, 60)  # seconds


def build_app(settings: Settings) -> App:
    """Make the application. A lead that is out of attempts has failed: nobody is asked."""
    app = App(
        name="batch-report-runner",
        retry_policy=RetryPolicy(max_attempts=3, backoff_schedule=BACKOFF, on_exhausted="fail"),
    )
    app.registry.register_instance(LeadHandlers(settings))
    app.registry.register_instance(MailHandlers(settings))
    app.add_process(LeadReportProcess)
    return app


app = build_app(Settings.from_env())
