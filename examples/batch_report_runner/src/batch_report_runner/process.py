"""What is done for a lead: its figures are bought, then its report is made. It only decides; the handlers do."""

from dataclasses import asdict, dataclass, field
from enum import StrEnum

from commandbus.process import BaseProcessManager, ProcessCommand, ProcessResponse

DOMAIN = "lead-reports"
PRINTING = "report-printing"  # a queue of its own: a report is made while others are still to be bought
MAIL = "report-mail"


class Step(StrEnum):
    FETCH = "FetchFigures"
    RENDER = "RenderReport"


@dataclass
class LeadReport:
    """One lead of a batch. `unit_costs` are those of the quote, as text; `figures` is known once it is bought."""

    batch_id: str
    lead_id: int
    template_version: str
    unit_costs: dict[str, str]
    provider: str = ""
    figures: list[int] = field(default_factory=list)


class LeadReportProcess(BaseProcessManager):
    """Buying cannot be undone, so a lead that fails or is cancelled simply ends."""

    process_type = "LeadReport"
    domain = DOMAIN
    state_class = LeadReport
    step_class = Step

    def get_first_step(self, state: LeadReport) -> Step:
        return Step.FETCH

    def build_command(self, step: Step, state: LeadReport) -> ProcessCommand:
        return ProcessCommand(step, asdict(state), domain=PRINTING if step is Step.RENDER else None)

    def update_state(self, state: LeadReport, step: Step, response: ProcessResponse) -> None:
        if step is Step.FETCH and response.result:
            state.provider = response.result["provider"]
            state.figures = response.result["figures"]

    def get_next_step(self, current_step: Step, response: ProcessResponse, state: LeadReport) -> Step | None:
        return Step.RENDER if current_step is Step.FETCH else None
