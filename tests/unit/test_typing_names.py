"""Every public name of the library stands in tests/typing, which `make check` reads with mypy --strict and pyright."""

import ast
import inspect
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

import commandbus
import commandbus.process
import commandbus.sync
import commandbus.web

TYPING = Path(__file__).parents[1] / "typing"
# What pages and tests of the library itself call on these.
NOT_FOR_USERS = {"Portal", "SyncProxy", "Console", "Panels", "Site"}


@pytest.fixture(scope="module")
def used() -> set[str]:
    """The names that the typing tests use: by themselves, as attributes, or as methods that they define."""
    found: set[str] = set()
    for file in TYPING.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(node.name)
    return found


def methods_of(kind: type[Any]) -> set[str]:
    return {name for name, value in vars(kind).items() if isinstance(value, FunctionType) and name[0] != "_"}


@pytest.mark.parametrize("module", [commandbus, commandbus.process, commandbus.sync, commandbus.web])
def test_every_public_name_and_method_is_type_checked(used: set[str], module: ModuleType) -> None:
    names = set(module.__all__)
    assert len(names) > 5
    assert sorted(names - used) == []
    public = {name: found for name in names - NOT_FOR_USERS if inspect.isclass(found := getattr(module, name))}
    unchecked = [f"{name}.{method}" for name, kind in public.items() for method in methods_of(kind) - used]
    assert sorted(unchecked) == []
