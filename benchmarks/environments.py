"""The peers' environment: the newest Python of the machine, and the packages of peers.txt."""

import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.harness import Python

_ROOT = Path(__file__).parent.parent
_FOLDER = _ROOT / "build" / "bench" / "peers"
PEERS_LIST = Path(__file__).parent / "peers.txt"
_OLDEST = (3, 12)  # what the most demanding peer needs


def peers() -> Python:
    """Make the environment if it is not there, or if peers.txt changed; returns its interpreter."""
    python, stamp = _FOLDER / "bin" / "python", _FOLDER / "peers.txt"
    if not stamp.exists() or stamp.read_text() != PEERS_LIST.read_text():
        shutil.rmtree(_FOLDER, ignore_errors=True)
        subprocess.run([str(newest_python()), "-m", "venv", str(_FOLDER)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "-r", str(PEERS_LIST)], check=True)
        stamp.write_text(PEERS_LIST.read_text())
    return Python(python)


def newest_python() -> Path:
    """Find the newest interpreter that the machine has. Raises SystemExit when none is new enough."""
    found = {version: path for path in _candidates() if (version := _version(path)) >= _OLDEST}
    if not found:
        raise SystemExit("the peers need Python {}.{} or newer, and this machine has none".format(*_OLDEST))
    return found[max(found)]


def _candidates() -> list[Path]:
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep) if folder]
    folders += sorted(Path.home().glob(".pyenv/versions/*/bin"))
    return [path for folder in folders for path in folder.glob("python3.*") if path.name.count(".") == 1]


def _version(path: Path) -> tuple[int, ...]:
    asked = [str(path), "-c", "import sys, venv, ensurepip; print(*sys.version_info[:3])"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    return tuple(map(int, done.stdout.split())) if done.returncode == 0 else (0,)
