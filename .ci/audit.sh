#!/usr/bin/env bash
# Holds the pins of constraints.txt against the known vulnerabilities, by pip-audit; 1 when a pin has one.
# Where the data cannot be reached it says so: it asks first for a version that is known to be vulnerable.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

home=build/audit
[[ -x $home/bin/pip-audit ]] || {
    "${PYTHON:-python3}" -m venv --clear "$home"
    "$home/bin/python" -m pip install -qq pip-audit
}
audit() { timeout 120 "$home/bin/pip-audit" --no-deps --disable-pip --progress-spinner off --timeout 15 --requirement "$1"; }

known=$home/known-to-be-vulnerable.txt
echo 'jinja2==2.11.2' >"$known"
if audit "$known" >"$home/known.log" 2>&1; then
    echo "left out: the data on vulnerabilities cannot be reached from here"
elif ! grep -q 'jinja2 *2.11.2' "$home/known.log"; then
    echo "left out: the data on vulnerabilities cannot be reached from here: $(tail -n 1 "$home/known.log")"
else
    audit constraints.txt
fi
