"""Finds the App under test, and the path by which other processes can import it."""

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from commandbus import App

_BOTH_WAYS = (
    'name it in the configuration (cb_app = "package.module:attribute"), or override the fixture cb_app in a '
    "conftest.py (@pytest.fixture, def cb_app(): return app)"
)


def app_from_ini(config: pytest.Config) -> "App":
    """Return the App that ini cb_app names. Errors: pytest.UsageError, saying what, where and how to mend it."""
    path = str(config.getini("cb_app")).strip()
    if not path:
        raise pytest.UsageError(f"the test needs the App under test, and no cb_app is given: {_BOTH_WAYS}")
    return check_app(import_path(path), f"ini cb_app = {path!r}")


def import_path(path: str) -> Any:
    """Import "package.module:attribute". Errors: pytest.UsageError."""
    module_name, separator, attribute = path.partition(":")
    where = f"ini cb_app = {path!r}"
    if not (module_name and separator and attribute):
        raise pytest.UsageError(f'{where}: write it as "package.module:attribute", such as "shop.bus:app"')
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise pytest.UsageError(
            f"{where}: importing {module_name!r} failed with {type(error).__name__}: {error}. "
            'Is its folder on the path? Set pythonpath = ["src"] in the configuration, or install it'
        ) from error
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise pytest.UsageError(f"{where}: {module_name!r} has no {attribute!r}: name the App's variable") from None
    return found


def check_app(found: Any, where: str) -> "App":
    """Return `found` when it is an App. Errors: pytest.UsageError."""
    from commandbus import App

    if not isinstance(found, App):
        raise pytest.UsageError(f"{where} is {type(found).__name__}, not a commandbus.App: {_BOTH_WAYS}")
    return found


def path_of(app: "App", config: pytest.Config) -> str:
    """Return "package.module:attribute" by which another process can import the App. Errors: pytest.UsageError."""
    path = str(config.getini("cb_app")).strip()
    if path and import_path(path) is app:
        return path
    for name, module in sorted(sys.modules.items()):
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is app and _is_importable(name):
                return f"{name}:{attribute}"
    raise pytest.UsageError(
        "worker processes must import the App under test by path, and it is no attribute of any module that they can "
        'import: put it into a module as a global, and name that (cb_app = "package.module:attribute")'
    )


def _is_importable(name: str) -> bool:
    try:
        return name != "__main__" and importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
