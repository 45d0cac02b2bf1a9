"""Finding out whether a manager's order of steps depends on results: ask it, with arguments that notice a look."""

from typing import Any, NoReturn, Protocol

from .chaos import ChaosUsageError


class OrderedManager(Protocol):
    """The part of a process manager that decides the order of its steps."""

    @property
    def process_type(self) -> str: ...
    def get_first_step(self, state: Any) -> str: ...
    def get_next_step(self, current_step: Any, response: Any, state: Any) -> str | None: ...


def declared_path(manager: OrderedManager) -> list[str]:
    """Return the steps of `manager` in the order in which it takes them when all of them succeed.

    get_first_step and get_next_step are called with a state and a response that notice when anything of them is used.
    Raises ChaosUsageError when that happens, when a method raises, or when the steps never end. What a manager keeps
    outside of its state cannot be noticed.
    """
    step = _ask(manager, "get_first_step", None)
    path: list[str] = []
    while step is not None:
        if str(step) in path:
            raise ChaosUsageError(
                f"the path of {manager.process_type} never ends: {' -> '.join([*path, str(step)])}; "
                "say how often it goes round by path=[steps…]"
            )
        path.append(str(step))
        step = _ask(manager, "get_next_step", step)
    return path


def command_types_of(manager: Any, steps: list[str], state: Any) -> dict[str, str]:
    """Return step -> command type for the steps whose command can be built of `state`, the one before any result."""
    types = {}
    for step in steps:
        try:
            types[step] = str(manager.build_command(step, state).command_type)
        except Exception:  # noqa: S112 - it needs a result; predict says so if that matters
            continue
    return types


def _ask(manager: OrderedManager, method: str, step: Any) -> Any:
    seen: list[str] = []
    response, state = _Probe("the response", seen), _Probe("the state", seen)
    answer, raised = None, None
    try:
        answer = manager.get_first_step(state) if step is None else manager.get_next_step(step, response, state)
    except Exception as error:
        raised = error
    if seen:
        raise ChaosUsageError(
            f"the path of {manager.process_type} depends on results: its {method} looks at {seen[0]}; "
            "give the steps to predict by path=[steps…]"
        )
    if raised is not None:
        raise ChaosUsageError(
            f"the path of {manager.process_type} is not known: its {method} raised {raised!r}; "
            "give the steps to predict by path=[steps…]"
        ) from raised
    return answer


class _Looked(Exception):
    """A probe was used."""


class _Probe:
    """Stands for a value that must not be looked at: every use is noted, and raises."""

    __slots__ = ("_name", "_seen")

    def __init__(self, name: str, seen: list[str]) -> None:
        object.__setattr__(self, "_name", name)
        object.__setattr__(self, "_seen", seen)


def _look(probe: _Probe, *_: object) -> NoReturn:
    name = object.__getattribute__(probe, "_name")
    object.__getattribute__(probe, "_seen").append(name)
    raise _Looked(name)


# Operators are looked up on the type, past __getattribute__, so each needs its own.
_USES = """
    getattribute setattr bool eq ne lt le gt ge hash iter next len contains getitem setitem str repr format bytes
    call int float index add sub mul and or xor enter exit dir reversed fspath
"""
for _use in _USES.split():
    setattr(_Probe, f"__{_use}__", _look)
