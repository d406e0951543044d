#!/bin/sh
# Install the gateway into $1, read-only for whoever runs it. The Dockerfile runs these steps, and
# check.sh runs them where no container engine exists.
set -eu

prefix=$1
root=$(cd "$(dirname "$0")/../.." && pwd)

"$root/deploy/venv.sh" "$prefix"
pip() { "$prefix/bin/python" -m pip "$@" -qq --disable-pip-version-check; }
pip install --no-input --no-compile --requirement "$root/requirements.lock"

# Built from a copy, because building writes into the source folder.
source=$(mktemp -d)
trap 'rm -rf "$source"' EXIT
for part in pyproject.toml README.md LICENSE app compressors router variants; do
    cp -R "$root/$part" "$source/"
done

# What every request passes becomes machine code where there is a C compiler, as in the Dockerfile.
if command -v cc >/dev/null; then
    tools=$source/tools
    pip install --no-input --target "$tools" --constraint "$root/requirements-dev.lock" 'mypy[mypyc]'
    PYTHONPATH=$tools "$prefix/bin/python" "$root/deploy/compile.py" "$source"
    rm -r "$tools"
    cp "$source"/gearshift__mypyc.*.so "$prefix"/lib/python3*/site-packages/
fi
pip install --no-input --no-compile --no-deps "$source"

cp "$root/deploy/image/health.py" "$prefix/"
pip uninstall --yes setuptools pip
# Compiled here, on all cores, because nobody can write there later.
"$prefix/bin/python" -m compileall -qq -j 0 "$prefix/lib"
chmod -R a+rX,a-w "$prefix"
