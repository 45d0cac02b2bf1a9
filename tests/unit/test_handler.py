"""Handlers are refused when they are declared, not when the first command reaches them."""

import functools
from collections.abc import Callable
from typing import Any

import pytest

from commandbus import Command, HandlerContext, HandlerRegistry, handler
from commandbus.errors import HandlerAlreadyRegisteredError, HandlerNotFoundError


def greet(command: Command, context: HandlerContext) -> None:
    """A plain handler."""


async def greet_later(command: Command, context: HandlerContext) -> None:
    """A handler that waits."""


class Greeter:
    @handler(domain="mail", command_type="Greet")
    async def greet(self, command: Command, context: HandlerContext) -> None:
        """A method that is a handler."""

    @handler(domain="mail", command_type="Part")
    def part(self, command: Command, context: HandlerContext) -> None:
        """Another one."""

    def hum(self) -> None:
        """No handler."""


class Callee:
    async def __call__(self, command: Command, context: HandlerContext) -> None:
        """An object that can be called."""


def takes_one(command: Command) -> None: ...
def takes_three(command: Command, context: HandlerContext, more: int) -> None: ...
def takes_names(*, command: Command, context: HandlerContext) -> None: ...


@pytest.mark.parametrize(
    ("function", "signature"),
    [
        (takes_one, r"\(command: .*Command\) -> None"),
        (takes_three, r"\(command: .*, more: int\) -> None"),
        (takes_names, r"\(\*, command: .*\) -> None"),
        (Greeter.greet, r"\(self, command: .*\) -> None"),
    ],
)
def test_a_handler_that_cannot_take_command_and_context_is_refused(
    function: Callable[..., Any], signature: str
) -> None:
    registry = HandlerRegistry()
    name = f"{function.__module__}.{function.__qualname__}"
    told = rf"^the handler {name} is called with \(command, context\), which {signature} does not take$"
    with pytest.raises(TypeError, match=told):
        registry.add("mail", "Greet", function)
    assert len(registry) == 0


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^the handler of 'Greet' must be callable, not str$"):
        HandlerRegistry().add("mail", "Greet", "greet")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("function", "is_async"),
    [
        (greet, False),
        (greet_later, True),
        (Callee(), True),
        (lambda *given: None, False),
        (functools.partial(takes_three, more=1), False),
    ],
)
def test_whatever_takes_command_and_context_is_a_handler(function: Callable[..., Any], is_async: bool) -> None:
    registry = HandlerRegistry()
    registry.add("mail", "Greet", function)
    found = registry.get("mail", "Greet")
    assert (found.function, found.is_async) == (function, is_async)


def test_a_second_handler_of_a_command_type_is_refused_and_both_are_named() -> None:
    registry = HandlerRegistry()
    registry.add("mail", "Greet", greet)
    with pytest.raises(HandlerAlreadyRegisteredError, match=rf"{__name__}\.greet.*{__name__}\.greet_later"):
        registry.add("mail", "Greet", greet_later)
    assert registry.get("mail", "Greet").function is greet
    registry.add("post", "Greet", greet_later)
    assert registry.domains == {"mail", "post"}


def test_the_declared_methods_of_an_instance_are_registered_once() -> None:
    registry, greeter = HandlerRegistry(), Greeter()
    registry.register_instance(greeter)
    assert registry.command_types("mail") == ["Greet", "Part"]
    assert registry.get("mail", "Greet").function == greeter.greet
    assert [registered.is_async for registered in registry] == [True, False]
    with pytest.raises(HandlerAlreadyRegisteredError, match=r"Greeter\.greet"):
        registry.register_instance(Greeter())


def test_what_declares_no_handler_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^Callee has no method decorated with @handler\(domain=, command_type=\)$"):
        HandlerRegistry().register_instance(Callee())
    with pytest.raises(TypeError, match=r"is no handler: decorate it with @handler\(domain=, command_type=\)$"):
        HandlerRegistry().register(greet)


def test_a_command_type_without_a_handler_is_not_found() -> None:
    with pytest.raises(HandlerNotFoundError, match="Greet"):
        HandlerRegistry().get("mail", "Greet")
