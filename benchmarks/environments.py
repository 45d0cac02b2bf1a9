"""The peers' environments: the packages of peers.txt, on our Python, or on the newest where a peer needs that."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.harness import Python

_ROOT = Path(__file__).parent.parent
_FOLDER = _ROOT / "build" / "bench"
PEERS_LIST = Path(__file__).parent / "peers.txt"
_NEEDS = {"oban": (3, 12)}  # the oldest Python of a peer that does not run on each of ours


def peer(name: str) -> Python:
    """Give the interpreter of a peer's environment: this one's Python, so that all have the same, if the peer can."""
    needed = _NEEDS.get(name, (0,))
    return _environment(Path(sys.executable) if sys.version_info >= needed else newest_python(needed))


def _environment(python: Path) -> Python:
    """Make the environment if it is not there, or if peers.txt or its Python changed; returns its interpreter."""
    folder = _FOLDER / f"peers-{'.'.join(map(str, _version(python)))}"
    interpreter, stamp = folder / "bin" / "python", folder / "made-of.txt"
    made_of = f"{python.resolve()}\n{PEERS_LIST.read_text()}"
    if not stamp.exists() or stamp.read_text() != made_of:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([str(python), "-m", "venv", str(folder)], check=True)
        subprocess.run([str(interpreter), "-m", "pip", "install", "--quiet", "-r", str(PEERS_LIST)], check=True)
        stamp.write_text(made_of)
    return Python(interpreter)


def newest_python(needed: tuple[int, ...]) -> Path:
    """Find the newest interpreter that the machine has. Raises SystemExit when none is as new as needed."""
    found = {version: path for path in _candidates() if (version := _version(path)) >= needed}
    if not found:
        raise SystemExit(
            f"a peer needs Python {'.'.join(map(str, needed))} or newer, and this machine has none: install one, or "
            "measure with --without-peers"
        )
    return found[max(found)]


def _candidates() -> list[Path]:
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    folders += sorted(Path.home().glob(".pyenv/versions/*/bin"))
    return [path for folder in folders for path in folder.glob("python3.*") if path.name.count(".") == 1]


def _version(path: Path) -> tuple[int, ...]:
    asked = [str(path), "-c", "import sys, venv, ensurepip; print(*sys.version_info[:3])"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return tuple(map(int, done.stdout.split())) if done.returncode == 0 else (0,)
