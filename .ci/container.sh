#!/usr/bin/env bash
# The tests that need a Docker engine: with the one that runs here, else with one that this script starts and ends.
# The engine is installed only on CI's own machine. Leaves no process and no file behind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-.venv/bin/python}
scratch="" engine=""

end() {
    if [[ -n $engine ]] && kill -TERM "$engine" 2>/dev/null; then
        for _ in $(seq 300); do kill -0 "$engine" 2>/dev/null || break; sleep 0.1; done
        kill -KILL "$engine" 2>/dev/null || true
    fi
    [[ -z $scratch ]] || rm -rf "$scratch"
}
trap end EXIT

has_image() { "$python" -c 'import docker; docker.from_env().images.get("postgres:18")' >/dev/null 2>&1; }

install_engine() {
    command -v apt-get >/dev/null || return 0
    # Installed, but not started as a service: ours has its own folders.
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq install -y --no-install-recommends docker.io; } \
        >"$scratch/apt.log" 2>&1 || tail -n 5 "$scratch/apt.log"
}

start_engine() {
    export DOCKER_HOST="unix://$scratch/docker.sock"
    setsid dockerd --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false --ip 127.0.0.1 \
        --bip 198.51.100.1/24 --data-root "$scratch/data" --exec-root "$scratch/exec" --pidfile "$scratch/dockerd.pid" \
        --host "$DOCKER_HOST" >"$scratch/dockerd.log" 2>&1 &
    engine=$!
    for _ in $(seq 300); do
        if "$python" -c 'import docker; docker.from_env()' >/dev/null 2>&1; then return 0; fi
        kill -0 "$engine" 2>/dev/null || break
        sleep 0.1
    done
    return 1
}

if ! has_image; then
    if [[ ${CI:-} != true || $EUID -ne 0 ]]; then
        echo "left out: no Docker engine with the image postgres:18 here, and only CI's own machine, as root, gets one"
        exit
    fi
    scratch=$(mktemp -d "${TMPDIR:-/tmp}/cb-docker.XXXXXX")
    command -v dockerd >/dev/null || install_engine
    if ! command -v dockerd >/dev/null; then
        echo "left out: no dockerd on this machine, and apt-get installs none (Debian: apt-get install docker.io)"
        exit
    fi
    if ! start_engine; then
        echo "left out: dockerd does not run on this machine: $(tail -n 3 "$scratch/dockerd.log")"
        exit
    fi
    "$python" .ci/container_image.py postgres 18
fi
# Where this machine is a container itself, its neighbours are reached as on any other host.
TESTCONTAINERS_CONNECTION_MODE=docker_host CB_CONTAINER_TESTS=required \
    "$python" -m pytest -m docker tests/plugin/test_postgres_container.py
