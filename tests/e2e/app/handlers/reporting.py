"""The handlers of a StatementReport: they read the ledger, sum up, and write the statement, for real."""

from datetime import date
from typing import Any

from commandbus import BusinessRuleError, Command, HandlerContext, PermanentCommandError, handler
from tests.e2e.app import ledger, statement
from tests.e2e.app.files import ReportFiles
from tests.e2e.app.handlers.probabilistic import Behavior, ProbabilisticHandlers, Result
from tests.e2e.app.process.statement_report import DOMAIN, StatementReportStep
from tests.e2e.app.rendering import OutputType, Statement, render


class ReportingHandlers(ProbabilisticHandlers):
    """The three steps. The same command always leaves the same file, so that a step may run any number of times."""

    def __init__(self, files: ReportFiles | None = None) -> None:
        self._files = files or ReportFiles()

    @handler(domain=DOMAIN, command_type=StatementReportStep.QUERY)
    async def query(self, command: Command, ctx: HandlerContext) -> Result | None:
        """Read the transactions of the accounts and days asked for into a CSV file."""

        async def work() -> Result:
            accounts = command.data["account_list"]
            from_date, to_date = (date.fromisoformat(command.data[name]) for name in ("from_date", "to_date"))
            async with ledger.reader(ctx.pool) as conn:
                transactions = await ledger.read_transactions(conn, accounts, from_date, to_date)
                if len({entry.account for entry in transactions}) < len(accounts):
                    await _refuse_unknown(conn, accounts)
            path = self._write(ctx, "transactions.csv", statement.transactions_to_csv(transactions))
            return {"query_result_path": path, "transactions": len(transactions)}

        return await self._handle_probabilistic(ctx, await self._get_behavior(ctx), work)

    @handler(domain=DOMAIN, command_type=StatementReportStep.AGGREGATE)
    async def aggregate(self, command: Command, ctx: HandlerContext) -> Result | None:
        """Sum the transactions up by account and category into a JSON file."""

        async def work() -> Result:
            lines = statement.totals_of_csv(self._read(command, "query_result_path"))
            path = self._write(ctx, "totals.json", statement.lines_to_json(lines))
            return {"aggregated_data_path": path, "lines": len(lines)}

        return await self._handle_probabilistic(ctx, await self._get_behavior(ctx), work)

    @handler(domain=DOMAIN, command_type=StatementReportStep.RENDER)
    async def render(self, command: Command, ctx: HandlerContext) -> Result | None:
        """Write the statement as the file that was asked for."""

        async def work() -> Result:
            output_type = OutputType(command.data["output_type"])
            lines = statement.lines_of_json(self._read(command, "aggregated_data_path"))
            content = render(Statement(command.data["from_date"], command.data["to_date"], lines), output_type)
            return {
                "rendered_file_path": self._write(ctx, f"statement.{output_type}", content),
                "size": len(content),
            }

        return await self._handle_probabilistic(ctx, await self._get_behavior(ctx), work)

    async def _get_behavior(self, ctx: HandlerContext) -> Behavior | None:
        """Return the behavior of the command; its process says by `has_behavior` whether one is stored."""
        return await super()._get_behavior(ctx) if ctx.command.data.get("has_behavior") else None

    def _write(self, ctx: HandlerContext, name: str, content: bytes) -> str:
        """Write a file of this command's process, and return its path. A few kilobytes: a thread would cost more."""
        return self._files.write(f"{ctx.process_id or ctx.command.command_id}.{name}", content, ctx.epoch)

    def _read(self, command: Command, field: str) -> bytes:
        """Return the content of the file that the step before has left."""
        path = command.data[field]
        if path is None:
            raise PermanentCommandError(
                "NO_INPUT", f"{field} is not set: whoever completed the step before gave no path; cancel the process"
            )
        return self._files.read(path)


async def _refuse_unknown(conn: Any, accounts: list[str]) -> None:
    unknown = await ledger.unknown_accounts(conn, accounts)
    if unknown:
        raise BusinessRuleError("UNKNOWN_ACCOUNT", f"the ledger has no account {', '.join(unknown)}")
