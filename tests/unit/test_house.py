"""The rules of the house that no linter holds: sizes, and that nobody reaches for another module's private names."""

import ast
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

REPOSITORY = Path(__file__).parents[2]
SOURCES = REPOSITORY / "src"
BESIDE = ("tests", "benchmarks", "examples", "docs", ".ci")  # where other code of ours stands
LONGEST_FILE = 400  # lines; a longer one says why in its docstring: "In one file because ..."
LONGEST_FUNCTION = 60  # lines, without decorators, docstring, and the functions in it: a page's routes stand in one
OURS = ("commandbus", "pytest_commandbus")

Sources = dict[str, tuple[str, ast.Module]]


@pytest.fixture(scope="module")
def sources() -> Sources:
    return parsed(SOURCES, SOURCES.rglob("*.py"))


@pytest.fixture(scope="module")
def everything(sources: Sources) -> Sources:
    beside = [file for folder in BESIDE for file in (REPOSITORY / folder).rglob("*.py") if is_ours(file)]
    return sources | parsed(REPOSITORY, beside)


def parsed(root: Path, files: Iterable[Path]) -> Sources:
    texts = {str(file.relative_to(root)): file.read_text(encoding="utf-8") for file in sorted(files)}
    return {name: (text, ast.parse(text, name)) for name, text in texts.items()}


def is_ours(file: Path) -> bool:
    """Whether a file is no part of an environment or of a build that somebody made in the folder."""
    return not {".venv", "build", "dist", "node_modules"}.intersection(file.relative_to(REPOSITORY).parts)


def test_no_file_is_long_without_a_reason_at_its_top(everything: Sources) -> None:
    long = [
        f"{name}: {count} lines"
        for name, (text, tree) in everything.items()
        if (count := text.count("\n")) > LONGEST_FILE and "In one file because" not in (ast.get_docstring(tree) or "")
    ]
    assert long == []


def test_no_file_of_statements_is_long() -> None:
    files = [f for folder in ("migrations", "src", *BESIDE) for f in (REPOSITORY / folder).rglob("*.sql") if is_ours(f)]
    assert len(files) > len(list((REPOSITORY / "migrations").iterdir())) > 5
    assert [f.name for f in files if f.read_text(encoding="utf-8").count("\n") > LONGEST_FILE] == []


def test_no_function_is_long(everything: Sources) -> None:
    long = [
        f"{name}, line {node.lineno}: {node.name} has {lines} lines"
        for name, (_, tree) in everything.items()
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
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").split("\n")
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
