#!/usr/bin/env bash
# Install the wheel beside this script into a clean environment, and test a repository that only has that.
# PYTHON names the interpreter, otherwise the first that is new enough; SMALL=1 runs everything once, with a small load.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
unset PYTHONPATH PYTEST_ADDOPTS CB_POSTGRES
export PIP_ROOT_USER_ACTION=ignore

python=""
for candidate in ${PYTHON:+"$PYTHON"} python3 python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[[ -n $python ]] || { echo "no Python 3.11 or newer with venv was found" >&2; exit 1; }

environment="$PWD/clean environment" # a path with a space, as some have
"$python" -m venv "$environment"
"$environment/bin/python" -m pip install -qq --constraint constraints.txt "$(echo ./*.whl)[xdist${SMALL:+,web,otel,prometheus}]"

cd downstream
strict=(-p pytest_commandbus --strict-markers --strict-config -W error)
echo "--- as $(id -un), $("$environment/bin/python" --version)"
if [[ -n ${SMALL:-} ]]; then
    "$environment/bin/python" -W error -c 'import pkgutil, importlib, commandbus, pytest_commandbus
for package in (commandbus, pytest_commandbus):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith(("__main__", ".strategies")):  # which needs an extra, and says so
            importlib.import_module(module.name)'
    "$environment/bin/commandbus" --help >/dev/null
    "$environment/bin/python" -W error -c 'from pathlib import Path
from commandbus import web
files = {path.name for path in Path(web.__file__).parent.rglob("*.*")}
assert {"htmx.min.js", "uPlot.iife.min.js", "console.css", "base.html"} <= files, files
for name in (name for name in files if name.endswith(".html")):
    web.Site(web.ConsoleSettings()).templates.get_template(name)'
    "$environment/bin/python" -m pytest "${strict[@]}" -n 2 --cb-load=200
    exit
fi
"$environment/bin/python" -m pytest "${strict[@]}"
PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 "$environment/bin/python" -m pytest "${strict[@]}"
"$environment/bin/python" -m pytest "${strict[@]}" -n 4 --cb-load=5000
