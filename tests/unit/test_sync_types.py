"""The blocking classes have the signatures of the async ones, for people, for `help` and for type checkers."""

import ast
import inspect
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from commandbus import BlockingContext, CommandBus, HandlerContext
from commandbus.process import BaseProcessManager
from commandbus.replies import ReplyQueue
from commandbus.sync import SyncCommandBus, SyncProcessManager, SyncReplyQueue
from commandbus.sync.face import Face, coroutine_methods

from .sync_stubs import COMMAND, ORIGINALS, STUB, make_stub

PAIRS = [
    pytest.param(face, original, name, id=f"{face.__name__}.{name}")
    for face, original in ORIGINALS.items()
    for name in coroutine_methods(original)
    if name in vars(face)
]
# What a blocking class says itself, and which parameters it does without.
BY_HAND = [
    (SyncCommandBus.send_batch, CommandBus.send_batch, set()),
    (SyncCommandBus.cancel_batch, CommandBus.cancel_batch, {"processes"}),
    (SyncProcessManager.start_many, BaseProcessManager.start_many, set()),
    (SyncReplyQueue.listen, ReplyQueue.listen, {"stop"}),
    (BlockingContext.extend_visibility, HandlerContext.extend_visibility, set()),
    (BlockingContext.complete, HandlerContext.complete, set()),
    (BlockingContext.transaction, HandlerContext.transaction, set()),
]


def parameters(function: Any) -> list[tuple[str, Any, Any, Any]]:
    found = inspect.signature(function, eval_str=True).parameters.values()
    return [(p.name, p.kind, p.default, p.annotation) for p in found]


@pytest.fixture(scope="module")
def stubs() -> dict[str, Any]:
    """The stub's classes, as if they took async connections."""
    text = STUB.read_text(encoding="utf-8").replace("from psycopg import Connection", "import psycopg")
    names: dict[str, Any] = {}
    exec(compile("from psycopg import AsyncConnection as Connection\n" + text, STUB, "exec"), names)  # noqa: S102  our own
    return names


def test_the_stub_is_made_from_the_async_classes_as_they_are() -> None:
    stub = ast.unparse(ast.parse(STUB.read_text(encoding="utf-8")))
    assert imports_sorted(stub) == imports_sorted(ast.unparse(ast.parse(make_stub()))), f"run: {COMMAND}"


def imports_sorted(text: str) -> list[str]:
    """The statements of a stub, its imports one a name."""
    tree = ast.parse(text)
    imports = [f"{node.module}.{n.name}" for node in tree.body if isinstance(node, ast.ImportFrom) for n in node.names]
    return sorted(imports) + [ast.unparse(node) for node in tree.body if not isinstance(node, ast.ImportFrom)]


@pytest.mark.parametrize(("face", "original", "name"), PAIRS)
def test_a_blocking_method_has_the_signature_of_the_async_one(
    stubs: dict[str, Any], face: type[Face], original: type[Any], name: str
) -> None:
    typed, blocking, awaited = getattr(stubs[face.__name__], name), getattr(face, name), getattr(original, name)
    assert parameters(typed) == parameters(awaited) == parameters(blocking)
    returned = inspect.signature(awaited, eval_str=True).return_annotation
    assert inspect.signature(typed, eval_str=True).return_annotation == returned
    assert not inspect.iscoroutinefunction(blocking)
    assert blocking.__doc__ == awaited.__doc__


@pytest.mark.parametrize(("blocking", "awaited", "without"), BY_HAND)
def test_what_is_written_by_hand_has_it_too(blocking: Any, awaited: Any, without: set[str]) -> None:
    asked = [(*p[:3], str(p[3]).replace("AsyncConnection", "Connection")) for p in parameters(awaited)]
    assert [(*p[:3], str(p[3])) for p in parameters(blocking)] == [p for p in asked if p[0] not in without]


def test_nothing_that_one_awaits_is_missing() -> None:
    """But for the hooks, which the bus calls, not the user."""
    by_hand = {awaited.__qualname__ for _, awaited, _ in BY_HAND}
    missing = {
        f"{original.__name__}.{name}"
        for face, original in ORIGINALS.items()
        for name in coroutine_methods(original)
        if name not in vars(face)
    }
    hooks = {"BaseProcessManager.before_send_command", "BaseProcessManager.before_send_commands"}
    assert missing - by_hand == hooks
    awaited = set(coroutine_methods(HandlerContext)) | {"transaction", "pool"}
    assert {name for name in dir(BlockingContext) if not name.startswith("_")} == awaited


@pytest.mark.slow
def test_type_checkers_know_what_blocks_what_it_takes_and_what_it_gives(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(
        textwrap.dedent(
            """
            from uuid import uuid4
            import psycopg
            from commandbus import Command, HandlerContext
            from commandbus.sync import connect

            bus = connect("")
            reveal_type(bus.get_command(uuid4()))
            reveal_type(bus.replies("me").receive())
            reveal_type(bus.process("Order").start_many([{"order": 1}]))
            bus.troubleshooting.operator_retry(uuid4(), operator="me", conn=psycopg.connect(""))
            with bus.transaction() as conn:
                bus.send(domain="d", command_type="T", command_id=uuid4(), data={}, conn=conn)

            def handle(command: Command, context: HandlerContext) -> None:
                with context.sync.transaction() as conn, context.sync.pool.connection() as another:
                    bus.process("Order").start({}, conn=conn)
                    another.execute("SELECT 1").fetchone()
                context.sync.complete({"n": 1})

            bus.send(domain="d", command_type="T", command_id="no uuid", data={})
            bus.send(domain="d", command_type="T", command_id=uuid4(), data={}, conn="no connection")
            bus.send_badge([])
            """
        ),
        encoding="utf-8",
    )
    line = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "user.py"]
    run = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    told = [said.split(":", 2)[2].strip().replace("builtins.", "") for said in run.stdout.splitlines()]
    assert told[:3] == [
        'note: Revealed type is "commandbus.models.CommandMetadata"',
        'note: Revealed type is "list[commandbus.models.ReceivedReply]"',
        'note: Revealed type is "int"',
    ]
    assert [said.split('"')[1] for said in told[3:]] == ["command_id", "conn", "SyncCommandBus"]
