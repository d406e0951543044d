#!/bin/sh
# Make a virtual environment at $1 with the first Python that is new enough and able to.
set -eu

unable=
for python in python3 python3.14 python3.13 python3.12 python3.11; do
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        exec "$python" -m venv "$1"
    fi
    unable=$python
done
if [ -n "$unable" ]; then
    echo "$unable cannot make virtual environments: apt-get install python3-venv" >&2
else
    echo "Gearshift needs Python 3.11 or newer: apt-get install python3 python3-venv" >&2
fi
exit 1
