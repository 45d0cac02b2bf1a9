"""The rules of the house that no linter holds: sizes, and that nobody reaches for another module's private names."""

import ast
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

SOURCES = Path(__file__).parents[2] / "src"
LONGEST_FILE = 400  # lines; a longer one says why in its docstring: "In one file because ..."
LONGEST_FUNCTION = 60  # lines, without decorators, docstring, and the functions in it: a page's routes stand in one
OURS = ("commandbus", "pytest_commandbus")

Sources = dict[str, tuple[str, ast.Module]]


@pytest.fixture(scope="module")
def sources() -> Sources:
    texts = {str(f.relative_to(SOURCES)): f.read_text(encoding="utf-8") for f in sorted(SOURCES.rglob("*.py"))}
    return {name: (text, ast.parse(text, name)) for name, text in texts.items()}


def test_no_file_is_long_without_a_reason_at_its_top(sources: Sources) -> None:
    long = [
        f"{name}: {count} lines"
        for name, (text, tree) in sources.items()
        if (count := text.count("\n")) > LONGEST_FILE and "In one file because" not in (ast.get_docstring(tree) or "")
    ]
    assert long == []


def test_no_function_is_long(sources: Sources) -> None:
    long = [
        f"{name}, line {node.lineno}: {node.name} has {lines} lines"
        for name, (_, tree) in sources.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (lines := length(node)) > LONGEST_FUNCTION
    ]
    assert long == []


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
    inner = [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return lines_of(body) - sum(lines_of([node]) for node in inner)


def lines_of(body: Sequence[ast.stmt]) -> int:
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_no_module_uses_a_private_name_of_another(sources: Sources) -> None:
    modules = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in sources}
    found = [
        f"{name}, line {line}: {what}"
        for name, (_, tree) in sources.items()
        for line, what in private_uses(tree, modules)
    ]
    assert found == []


def private_uses(tree: ast.Module, modules: set[str]) -> Iterator[tuple[int, str]]:
    """Imports of private names out of our modules, and attributes `module._name` of those that were imported."""
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
            for alias in node.names:
                if f"{node.module}.{alias.name}" in modules:  # a module; those with an underscore are ours to use
                    imported.add(alias.asname or alias.name)
                elif alias.name.startswith("_"):
                    yield node.lineno, f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in imported):
            continue
        if node.attr.startswith("_") and not node.attr.startswith("__"):
            yield node.lineno, f"{node.value.id}.{node.attr}"


def test_a_private_use_would_be_found() -> None:
    text = (
        "from commandbus import bus\nfrom commandbus.bus import _aware\nfrom commandbus import _core\nbus._aware(1)\n"
    )
    found = list(private_uses(ast.parse(text), {"commandbus.bus", "commandbus._core"}))
    assert found == [(2, "commandbus.bus._aware"), (4, "bus._aware")]


def test_every_pinned_package_installs_on_the_first_python_3_11() -> None:
    # Debian 12 has 3.11.2: a pin that asks for a later one breaks `make setup` there, and nowhere else
    pins = (SOURCES.parent / "constraints.txt").read_text(encoding="utf-8").split("\n")
    asking = {
        pin: required
        for pin in pins
        if "==" in pin
        and (required := required_python(pin.partition("==")[0]))
        and "3.11.0" not in SpecifierSet(required)
    }
    assert asking == {}


def required_python(name: str) -> str | None:
    try:
        return metadata.metadata(name)["Requires-Python"]
    except metadata.PackageNotFoundError:  # a pin for another Python or system
        return None
