#!/bin/bash
# Prove the image's steps without a container engine: build into a temporary folder, start the
# gateway from it as nobody (where we may), and see that it lives, holds no torch and writes
# nothing outside its data folder.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
prefix=$work/image
data=$work/data
gateway=
finish() {
    [ -z "$gateway" ] || kill "$gateway" 2>/dev/null || true
    wait
    chmod -R u+w "$work"
    rm -rf "$work"
}
trap finish EXIT
fail() {
    echo "image: $*" >&2
    exit 1
}

# The system's own Python first: one in somebody's home is out of reach for nobody.
PATH=/usr/local/bin:/usr/bin:/bin:$PATH "$here/build.sh" "$prefix"
mkdir "$data"
chmod 755 "$work"

# A clean environment, and as nobody if we are root. The shell in between is for the second exec:
# only then are root's capabilities gone, and what nobody may not reach is out of reach.
run=(env --ignore-environment --chdir="$data" PATH="$PATH" HOME="$data")
user=$(id -un)
nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups)
if [ "$user" = root ] && "${nobody[@]}" sh -c '"$0" -c pass' "$prefix/bin/python" 2>/dev/null; then
    run+=("${nobody[@]}")
    user=nobody
    chown 65534:65534 "$data"
fi
listing() { find "$prefix" -printf '%p %m %s %T@\n' | sort; }

for absent in torch openvino pytest; do
    ! "${run[@]}" "$prefix/bin/python" -c "import $absent" 2>/dev/null || fail "$absent is in it"
done
[ "$user" = root ] || [ -z "$("${run[@]}" find "$prefix" -writable ! -type l)" ] ||
    fail "$user may write to it"

compiled="not compiled (no C compiler)"
if command -v cc >/dev/null; then
    origin=$("${run[@]}" "$prefix/bin/python" -c 'import app.gateway; print(app.gateway.__file__)')
    [[ $origin == *.so ]] || fail "the path of a request is not compiled: $origin"
    compiled=compiled
fi

listing >"$work/before"
port=$("$prefix/bin/python" -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])')
"${run[@]}" "$prefix/bin/gearshift" serve --host 127.0.0.1 --port "$port" --data-dir "$data" \
    >"$work/log" 2>&1 </dev/null &
gateway=$!

alive=
for _ in $(seq 100); do
    kill -0 "$gateway" 2>/dev/null || break
    if GATEWAY_ADDRESS="127.0.0.1:$port" "$prefix/bin/python" "$prefix/health.py" 2>/dev/null; then
        alive=yes
        break
    fi
    sleep 0.1
done
[ -n "$alive" ] || { cat "$work/log" >&2; fail "the gateway does not answer /healthz"; }

kill -TERM "$gateway"
status=0
wait "$gateway" || status=$?
gateway=
[ "$status" = 0 ] || { cat "$work/log" >&2; fail "it ended with status $status after SIGTERM"; }
listing | cmp -s "$work/before" - || fail "the gateway wrote into its own folder"
echo "image: $(du -sm "$prefix" | cut -f1) MB, $compiled, alive as $user, no torch, nothing written, clean end"
