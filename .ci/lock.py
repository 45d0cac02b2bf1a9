"""Rewrite constraints.txt from what is installed in the environment that runs this: `make lock`.

Walks the requirements of the distribution with its extra `dev`, so that nothing is pinned that the set-up does not use.
"""

import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = "pytest-commandbus"
HEADER = """\
# Exact versions of everything that the development set-up installs, direct and transitive.
# pyproject.toml says which are direct and why. After a change there: make lock
"""


def normalized(name: str) -> str:
    """Give a distribution's name in the one spelling that pip compares by."""
    return re.sub(r"[-_.]+", "-", name).lower()


def closure() -> dict[str, str]:
    """Give name and version of every distribution that `pytest-commandbus[dev]` needs here."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    todo = [(ROOT, extra) for extra in ("", "dev")]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found = metadata.distribution(name)
        versions[name] = found.version
        for line in found.requires or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                todo += [(normalized(needed.name), wanted) for wanted in ("", *needed.extras)]
    del versions[ROOT]
    return versions


if __name__ == "__main__":
    lines = [f"{name}=={version}\n" for name, version in sorted(closure().items())]
    Path("constraints.txt").write_text(HEADER + "".join(lines), encoding="utf-8")
    print(f"constraints.txt: {len(lines)} packages")
