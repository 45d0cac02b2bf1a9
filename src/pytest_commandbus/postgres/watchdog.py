"""Ends a PostgreSQL server whose owner has died, and removes what it left.

Run as a script (`python watchdog.py DATA DIRECTORY...`) it holds the read end of a pipe on its standard
input. The owner keeps the write end; however the owner dies, SIGKILL included, the pipe closes and the
server ends. The script stands alone, so that it starts in milliseconds; `server.py` uses the same functions.
"""

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

DETACH = b"detach\n"
"""Written to the pipe by an owner that wants its server to go on without it."""

IMMEDIATE_SHUTDOWN_SECONDS = 8.0
"""How long a server may take to end by itself; it kills its own children after 5 seconds."""

_POLL_SECONDS = 0.01
_OWNER_CHECK_SECONDS = 0.5
_LATE_START_SECONDS = 2.0
_IPC_RMID = 0
_PROC = Path("/proc")
_HAS_PROC = (_PROC / "self" / "stat").exists()


def read_postmaster_file(data: Path) -> list[str]:
    """Return the lines of the server's postmaster.pid, or none when there is no such file."""
    try:
        return (data / "postmaster.pid").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def postmaster_pid(data: Path) -> int | None:
    """Return the process id of the server on this data directory, or None when it does not run."""
    lines = read_postmaster_file(data)
    if not lines or not lines[0].strip().isdigit():
        return None
    pid = int(lines[0])
    # A process id may have been given to somebody else since: only a process on this directory is the server.
    return pid if str(data) in _command_line(pid) else None


def _command_line(pid: int) -> str:
    if _HAS_PROC:
        try:
            return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    listing = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listing.stdout


def _process_table() -> dict[int, tuple[int, str]]:
    """Return, for every process, its parent and its state letter."""
    table: dict[int, tuple[int, str]] = {}
    if _HAS_PROC:
        for entry in _PROC.iterdir():
            if not entry.name.isdigit():
                continue
            try:
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            state, parent = stat[stat.rindex(")") + 1 :].split()[:2]
            table[int(entry.name)] = (int(parent), state)
        return table
    listing = subprocess.run(["ps", "-axo", "pid=,ppid=,stat="], capture_output=True, text=True, check=False)
    for line in listing.stdout.splitlines():
        pid, parent, state = line.split()[:3]
        table[int(pid)] = (int(parent), state)
    return table


def children_of(pid: int) -> list[int]:
    """Return the process ids of a process's direct children."""
    return [child for child, (parent, _) in _process_table().items() if parent == pid]


def send(pid: int, signal_number: int) -> None:
    """Send a signal to a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal_number)


def wait_gone(pids: list[int], seconds: float) -> bool:
    """Wait until no process of these runs (a zombie does not); False when some still do after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        table = _process_table()
        if all(table.get(pid, (0, "Z"))[1].startswith(("Z", "X")) for pid in pids):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)


def kill_server(pid: int) -> None:
    """SIGKILL a postmaster and all its children, and wait until none of them runs."""
    send(pid, signal.SIGSTOP)  # so that it forks no more while its children are counted
    family = [pid, *children_of(pid)]
    for member in family:
        send(member, signal.SIGKILL)
    wait_gone(family, IMMEDIATE_SHUTDOWN_SECONDS)


def remove_leftovers(data: Path) -> None:
    """Remove what a killed server leaves outside its directories: the System V segment that guards its data."""
    lines = read_postmaster_file(data)
    if len(lines) >= 7 and len(lines[6].split()) == 2:
        key, segment = (int(number) for number in lines[6].split())
        if _is_segment(key, segment):
            ctypes.CDLL(None, use_errno=True).shmctl(segment, _IPC_RMID, None)
    (data / "postmaster.pid").unlink(missing_ok=True)


def _is_segment(key: int, segment: int) -> bool:
    """Tell whether this segment still has the key that the server gave it."""
    if not _HAS_PROC:
        return True
    try:
        rows = (_PROC / "sysvipc" / "shm").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return False
    return any(int(row.split()[0]) & 0xFFFFFFFF == key & 0xFFFFFFFF and int(row.split()[1]) == segment for row in rows)


def end_server(data: Path) -> None:
    """End the server on this data directory without saving anything, and leave no shared memory."""
    pid = postmaster_pid(data)
    if pid is not None:
        send(pid, signal.SIGQUIT)
        send(pid, signal.SIGCONT)  # a stopped server would not hear it
        if not wait_gone([pid], IMMEDIATE_SHUTDOWN_SECONDS):
            kill_server(pid)
    remove_leftovers(data)


def wait_for_the_owner_to_die(owner: int) -> bool:
    """Return True when the owner is dead, False when it let its server go on."""
    while os.getppid() == owner:  # a forked child of the owner may hold the pipe open, so the pipe is not enough
        readable, _, _ = select.select([0], [], [], _OWNER_CHECK_SECONDS)
        if readable:
            return os.read(0, len(DETACH)) != DETACH
    return True


def main(owner: int, data: Path, directories: list[Path]) -> None:
    """Wait for the owner's death, then end its server and remove its directories."""
    if not wait_for_the_owner_to_die(owner):
        return
    # The owner may have died between starting the server and the server's first word.
    deadline = time.monotonic() + _LATE_START_SECONDS
    while data.exists() and not read_postmaster_file(data) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    if data.exists():
        end_server(data)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), [Path(argument) for argument in sys.argv[3:]])
