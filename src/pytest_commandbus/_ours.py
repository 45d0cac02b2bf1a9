"""Notice that the `commandbus` which Python would import is another distribution's, before its errors confuse."""

from importlib.util import find_spec
from pathlib import Path


class NotOurCommandbusError(ImportError):
    """The package `commandbus` that Python finds is not the one that came with pytest-commandbus."""


def require_our_commandbus() -> None:
    """Raise NotOurCommandbusError unless the first `commandbus` on the path is ours; imports nothing of it."""
    spec = find_spec("commandbus")
    if spec is None or spec.origin is None:
        raise NotOurCommandbusError(
            "the package `commandbus` is missing; mend it with: "
            "pip install --force-reinstall --no-deps pytest-commandbus",
            name="commandbus",
        )
    folder = Path(spec.origin).parent
    if not (folder / "_foreign.py").is_file():
        raise NotOurCommandbusError(
            f"`commandbus` in {folder} belongs to another distribution (such as reliable-cmd or commandbus); mend it "
            "with: pip uninstall reliable-cmd commandbus && "
            "pip install --force-reinstall --no-deps pytest-commandbus",
            name="commandbus",
            path=str(folder),
        )
