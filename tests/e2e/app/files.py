"""Where the steps of a statement leave their files."""

import os
import tempfile
from pathlib import Path

VARIABLE = "REPORT_DIR"

# Strings and calls of os here, since for files this small a Path costs as much as what is done with it.


class ReportFiles:
    """One folder of small files: the given one, else that of the environment's REPORT_DIR, else one of this user's
    in the folder for temporary files. All workers must see the same one; nothing is ever removed from it.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._given = directory

    @property
    def directory(self) -> str:
        """The folder, absolute; it may not exist yet."""
        named = self._given or os.environ.get(VARIABLE)
        return os.path.abspath(named or f"{tempfile.gettempdir()}/statement-reports-{os.getuid()}")  # noqa: PTH100

    def write(self, name: str, content: bytes, claim: int) -> str:
        """Put a file there under its final name at once and whole, and return its path.

        `claim` is what no other run of the same step has (the command's epoch), so that two of them never write to
        one temporary file; the last one to end wins, with the same content.
        """
        directory = self.directory
        final = f"{directory}/{name}"
        unfinished = f"{final}.{claim}~"
        try:
            _write(unfinished, content)
        except FileNotFoundError:
            Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(unfinished, content)
        os.replace(unfinished, final)  # noqa: PTH105
        return final

    @staticmethod
    def read(path: str) -> bytes:
        """Return the content of a file that a step has left."""
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read()


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(content)
