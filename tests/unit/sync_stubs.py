"""Writes the types of the blocking classes from the source of the async ones: `python -m tests.unit.sync_stubs`."""

import ast
import importlib
import inspect
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from commandbus.bus import CommandBus
from commandbus.process.base import BaseProcessManager
from commandbus.process.repository import ProcessRepository
from commandbus.replies import ReplyQueue
from commandbus.sync import faces
from commandbus.sync.face import Face, coroutine_methods
from commandbus.troubleshooting import TroubleshootingQueue

STUB = Path(faces.__file__).with_suffix(".pyi")
COMMAND = "python -m tests.unit.sync_stubs"
ORIGINALS: dict[type[Face], type[Any]] = {
    faces.CommandBusFace: CommandBus,
    faces.SyncTroubleshootingQueue: TroubleshootingQueue,
    faces.SyncProcessRepository: ProcessRepository,
    faces.ProcessManagerFace: BaseProcessManager,
    faces.ReplyQueueFace: ReplyQueue,
}
_HEAD = f'"""Made from the async classes by `{COMMAND}`; their docstrings say what the methods do."""'


def make_stub() -> str:
    """Return the text of the stub, not yet laid out."""
    imports: set[tuple[str, str]] = {("typing", "Any"), ("psycopg", "Connection"), ("commandbus.sync.face", "Face")}
    classes = [_class(face, original, imports) for face, original in ORIGINALS.items()]
    lines = [f"from {module} import {name}" for module, name in sorted(imports)]
    return "\n".join([_HEAD, "", *lines, "", *classes])


def methods_of(face: type[Face], original: type[Any]) -> list[str]:
    """Return the names of the async class's methods that the blocking one has, in the order of the source."""
    names = [name for name in coroutine_methods(original) if name in vars(face)]
    return sorted(names, key=lambda name: inspect.getsourcelines(getattr(original, name))[1])


def _class(face: type[Face], original: type[Any], imports: set[tuple[str, str]]) -> str:
    methods = [_method(getattr(original, name), imports) for name in methods_of(face, original)]
    return f"class {face.__name__}(Face):\n" + textwrap.indent("\n".join(methods), "    ") + "\n"


def _method(function: Any, imports: set[tuple[str, str]]) -> str:
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(node, ast.AsyncFunctionDef)
    names = sys.modules[function.__module__].__dict__
    for default in [*node.args.defaults, *node.args.kw_defaults]:
        if isinstance(default, ast.Name):
            default.id = repr(names[default.id])
    for part in [*(a.annotation for a in ast.walk(node.args) if isinstance(a, ast.arg)), node.returns]:
        for name in ast.walk(part) if part is not None else ():
            if isinstance(name, ast.Name):
                _resolve(name, names, imports)
    return f"def {node.name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns or ast.Constant(None))}: ..."


def _resolve(name: ast.Name, names: dict[str, Any], imports: set[tuple[str, str]]) -> None:
    """Have the stub import what an annotation names; the async connection becomes the blocking one."""
    if name.id == "Connection":
        name.id = "Connection[Any]"
    elif name.id in names:
        found = names[name.id]
        imports.add((_public_home(found.__module__, name.id), name.id))


def _public_home(module: str, name: str) -> str:
    """The shortest module of the package that offers `name`."""
    parts = module.split(".")
    homes = (".".join(parts[: i + 1]) for i in range(len(parts)))
    return next(home for home in homes if hasattr(importlib.import_module(home), name))


if __name__ == "__main__":
    STUB.write_text(make_stub(), encoding="utf-8")
    for step in (["check", "--quiet", "--select=I", "--fix"], ["format", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *step, str(STUB)], check=True)
