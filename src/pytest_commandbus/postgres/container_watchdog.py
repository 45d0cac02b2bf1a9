"""Removes a container whose owner has died, SIGKILL included.

Run as a module it holds the read end of a pipe on its standard input; the owner keeps the write end.
"""

import os
import subprocess
import sys

from . import watchdog


def start(name: str) -> "subprocess.Popen[bytes]":
    """Start the process that removes the container of this name when this process is gone; it may be made later.

    `communicate(b"")` has it removed, `communicate(DETACH)` lets it go on.
    """
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109  '' is the directory
    return subprocess.Popen(
        [sys.executable, "-m", __name__, str(os.getpid()), name],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
        cwd="/",
        start_new_session=True,
    )


def main(owner: int, name: str) -> None:
    """Wait for the owner's end, then remove its container if there is one."""
    if not watchdog.wait_for_the_owner_to_die(owner):
        return
    import docker
    from docker.errors import DockerException, NotFound

    client = docker.from_env()
    try:
        client.api.remove_container(name, force=True, v=True)
    except NotFound:
        return
    except DockerException as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
