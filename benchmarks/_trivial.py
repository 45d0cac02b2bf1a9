"""The application under measurement: a process of three steps whose handlers do nothing."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from commandbus import App, Command, HandlerContext
from commandbus.process import BaseProcessManager, ProcessCommand, ProcessResponse

DOMAIN = "bench"


class Step(StrEnum):
    FIRST = "First"
    SECOND = "Second"
    THIRD = "Third"


@dataclass
class State:
    number: int = 0
    done: int = 0


class ThreeSteps(BaseProcessManager):
    process_type = "ThreeSteps"
    domain = DOMAIN
    state_class = State
    step_class = Step

    def get_first_step(self, state: State) -> Step:
        return Step.FIRST

    def build_command(self, step: str, state: State) -> ProcessCommand:
        return ProcessCommand(step, {"number": state.number, "done": state.done})

    def update_state(self, state: State, step: str, response: ProcessResponse) -> None:
        state.done = (response.result or {})["done"]

    def get_next_step(self, current_step: str, response: ProcessResponse, state: State) -> Step | None:
        if current_step is Step.FIRST:
            return Step.SECOND
        return Step.THIRD if current_step is Step.SECOND else None


app = App()
app.add_process(ThreeSteps)


async def work(command: Command, context: HandlerContext) -> dict[str, Any]:
    return {"done": command.data["done"] + 1}


for step in Step:
    app.registry.add(DOMAIN, step.value, work)
