#!/usr/bin/env bash
# Install the wheel beside this script with the oldest, or the newest, pytest and companions that it admits, and see that
# they go together: compat.sh oldest|newest. PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
unset PYTHONPATH PYTEST_ADDOPTS CB_POSTGRES
export PIP_ROOT_USER_ACTION=ignore PIP_DISABLE_PIP_VERSION_CHECK=1

versions=compat/$1.txt
environment=$PWD/environment
"${PYTHON:-python3}" -m venv "$environment"
# the versions of the development set-up, but for what this is about
grep -vE '^(pytest|pytest-[a-z]+)==' constraints.txt >others.txt
"$environment/bin/python" -m pip install -qq --constraint others.txt --requirement "$versions" "$(echo ./*.whl)[xdist,hypothesis]"
cp downstream/* compat/suite/
cd compat
echo "--- $("$environment/bin/python" --version), $("$environment/bin/python" -m pip list --format=freeze | grep -E '^pytest' | tr '\n' ' ')"
"$environment/bin/python" -m pytest test_tools.py -p no:randomly -p no:cacheprovider -n 2 --dist worksteal -q
