"""The application: `tests.e2e.app.main:app` for workers, the command line and the tests."""

from commandbus import App
from tests.e2e.app.handlers.reporting import ReportingHandlers
from tests.e2e.app.handlers.testing import TestCommandHandlers
from tests.e2e.app.process.statement_report import StatementReportProcess


def create_app() -> App:
    """Return a new App with the handlers and the process of this application."""
    app = App(name="statement-reports")
    app.registry.register_instance(ReportingHandlers())
    app.registry.register_instance(TestCommandHandlers())
    app.add_process(StatementReportProcess)
    return app


app = create_app()
