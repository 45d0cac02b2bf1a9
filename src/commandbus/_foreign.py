"""Notice other distributions that install a package named `commandbus` too, before their modules mix with ours.

Also the mark by which the plugin knows that the `commandbus` it gets is this one.
"""

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

# directory-name prefixes of the distributions known to bring a top-level package `commandbus`, to their names
_KNOWN = {"commandbus-": "commandbus", "reliable_cmd-": "reliable-cmd"}
_METADATA = (".dist-info", ".egg-info")


class ForeignPackageError(ImportError):
    """Another distribution's files lie in the same folder `commandbus` as ours, each overwriting the other's."""


def check(package_folder: Path, search_path: Iterable[str]) -> None:
    """Raise ForeignPackageError if a foreign `commandbus` shares `package_folder`; warn if one is elsewhere on
    `search_path`, where another order of that path would import it instead of ours.

    Lists each folder once and reads no metadata, which takes well under a millisecond.
    """
    home = os.path.dirname(package_folder)  # noqa: PTH120  no object for each folder: this runs at every import
    for folder in filter(None, dict.fromkeys((home, *search_path))):
        for name in _foreign_in(folder):
            if folder == home:
                raise ForeignPackageError(
                    f"{name} has installed its own package `commandbus` into {package_folder}, over ours; "
                    f"mend it with: pip uninstall {name} && pip install --force-reinstall --no-deps pytest-commandbus",
                    name="commandbus",
                    path=str(package_folder),
                )
            warnings.warn(
                f"{name}, installed in {folder}, brings another package `commandbus` than pytest-commandbus does; "
                f"a program that finds it first will fail. Mend it with: pip uninstall {name}",
                RuntimeWarning,
                stacklevel=3,
            )


def _foreign_in(folder: str) -> Iterator[str]:
    try:
        entries = os.listdir(folder)  # noqa: PTH208  see above
    except OSError:  # a zip file, or a folder that is not there
        return
    for entry in entries:
        if entry.startswith(tuple(_KNOWN)) and entry.endswith(_METADATA):
            yield next(name for prefix, name in _KNOWN.items() if entry.startswith(prefix))
