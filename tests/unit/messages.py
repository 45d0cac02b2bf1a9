"""The messages that the code can give a user, found in its source; what varies in one is written as `…`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_ERROR = re.compile(
    r"(Error|Failure|Misuse|Refused|HTTPException|InvalidArgument|refused)$"
)  # what is called to make one
_TOLD = {"pytest.fail", "pytest.skip", "warnings.warn", "site.problem"}
_LOGGED = {"_log.warning", "_log.error", "_log.exception"}
_OF_LOG = re.compile(r"%(\.\d)?[sdfgr]")
_IN_SQL = re.compile(r"RAISE EXCEPTION\s+'((?:[^']|'')+)'")
_SHORTEST = 3  # words: less is no message but a name


class Message(NamedTuple):
    """A message, and where the code makes it: file:line."""

    place: str
    text: str


def messages(folder: Path) -> Iterator[Message]:
    """Yield what errors say, what fails or skips a test, and what is logged as a warning or worse."""
    for file in sorted(folder.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        parts = _parts(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (_is_message(node) or _is_error_of(node, parts)):
                named = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} & set(parts)
                for part in (node, *(parts[name] for name in sorted(named))):
                    for text in _texts(part):
                        if len(text.split()) >= _SHORTEST:
                            yield Message(f"{file.relative_to(folder.parent)}:{node.lineno}", text)
    for file in sorted(folder.rglob("*.sql")):
        for found in _IN_SQL.finditer(file.read_text(encoding="utf-8")):
            yield Message(str(file.relative_to(folder.parent)), found[1].replace("%", "…"))


def literals(folder: Path) -> str:
    """Return all texts of the code, one a line."""
    trees = (ast.parse(file.read_text(encoding="utf-8")) for file in sorted(folder.rglob("*.py")))
    return "\n".join(text for tree in trees for text in _texts(tree))


def _is_message(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    return _ERROR.search(name) is not None or name in _TOLD | _LOGGED


def _is_error_of(call: ast.Call, parts: dict[str, ast.AST]) -> bool:
    """Whether an error's class calls its base with the message."""
    return "class …Error" in parts and ast.unparse(call.func).endswith(("super().__init__", "Error.__init__"))


def _parts(tree: ast.Module) -> dict[str, ast.AST]:
    """A module's own functions that make a text, and its constants, by name: messages are put together of them."""
    found: dict[str, ast.AST] = {}
    for node in tree.body:
        match node:
            case ast.FunctionDef(name, _, body, returns=returns) if returns is not None and _is_text(returns):
                found[name] = ast.Module([n for n in body if not _is_docstring(n)], [])
            case ast.Assign([ast.Name(name)], ast.Constant() | ast.JoinedStr() as value):
                found[name] = value
            case ast.ClassDef(name) if name.endswith(("Error", "Refused")):
                found["class …Error"] = ast.Constant(None)
            case _:
                pass
    return found


def _is_text(returns: ast.expr) -> bool:
    return ast.unparse(returns) in ("str", "str | None")


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _texts(node: ast.AST) -> Iterator[str]:
    """Yield the texts below a node, each in one line; an f-string is one text."""
    match node:
        case ast.JoinedStr(values):
            yield _one_line("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in values))
        case ast.Constant(str(text)):
            yield _one_line(_OF_LOG.sub("…", text))
        case _:
            for child in ast.iter_child_nodes(node):
                yield from _texts(child)


def _one_line(text: str) -> str:
    return " ".join(text.split())
