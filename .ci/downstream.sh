#!/usr/bin/env bash
# Install the wheel beside this script into a clean environment, and test a repository that only has that.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
unset PYTHONPATH PYTEST_ADDOPTS CB_POSTGRES
export PIP_ROOT_USER_ACTION=ignore

python=""
for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[[ -n $python ]] || { echo "no Python 3.11 or newer with venv was found" >&2; exit 1; }

environment="$PWD/clean environment" # a path with a space, as some have
"$python" -m venv "$environment"
"$environment/bin/python" -m pip install -qq --constraint constraints.txt "$(echo ./*.whl)[xdist]"

cd downstream
strict=(-p pytest_commandbus --strict-markers --strict-config -W error)
echo "--- as $(id -un), $("$environment/bin/python" --version)"
"$environment/bin/python" -m pytest "${strict[@]}"
PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 "$environment/bin/python" -m pytest "${strict[@]}"
"$environment/bin/python" -m pytest "${strict[@]}" -n 4 --cb-load=5000
