"""MODULE:ATTRIBUTE -> the object, or one line that says why not."""

import importlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from commandbus.app import App
from commandbus.cli.failures import Misuse


def load_app(reference: str) -> App:
    """Import the application that MODULE:APP names. Raises Misuse."""
    found = load(reference, "MODULE:APP")
    if not isinstance(found, App):
        raise Misuse(f"{reference!r} is of type {type(found).__name__}, not commandbus.App; name the App itself")
    return found


def load(reference: str, what: str) -> Any:
    """Import MODULE and return its attribute (dots lead deeper); the current folder is searched first.

    `what` is what the message calls the reference. Raises Misuse.
    """
    module_name, colon, path = reference.partition(":")
    if not (module_name and colon and path):
        raise Misuse(f"{reference!r} is not {what}; write for example shop.main:app")
    found: Any = _import(module_name, reference)
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            place = getattr(sys.modules[module_name], "__file__", None) or module_name
            raise Misuse(f"{reference!r}: {place} has no {path!r}; define it there, or correct the name") from None
    return found


def _import(name: str, reference: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise Misuse(
                f"{reference!r}: there is no module {error.name!r} in {here} or on the import path; "
                "start from the folder that holds it, or set PYTHONPATH"
            ) from None
        raise _broken(reference, error) from error
    except (Exception, SystemExit) as error:  # whatever the user's module does when it is imported
        raise _broken(reference, error) from error


def _broken(reference: str, error: BaseException) -> Misuse:
    frames = traceback.extract_tb(error.__traceback__)
    last = next((f for f in reversed(frames) if "importlib" not in f.filename), None)
    place = ""
    if isinstance(error, SyntaxError):
        place = f" at {error.filename}, line {error.lineno}"
    elif last is not None and last.filename != __file__:
        place = f" at {last.filename}, line {last.lineno}"
    return Misuse(f"importing {reference!r} failed{place}: {type(error).__name__}: {error}")
