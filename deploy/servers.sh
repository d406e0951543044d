#!/bin/sh
# deploy/servers.sh VENV: PostgreSQL, nginx, Prometheus and libfaketime for tests that start real
# servers.
#
# What is installed is used. What is not is fetched as Debian packages and unpacked under VENV, with
# all that it needs and without root; the tests find it in VENV/servers/bin. Where that cannot be
# done those tests are skipped, with the reason; this script never fails for it.
set -eu

venv=$1
rm -rf "$venv/servers"
mkdir -p "$venv/servers/bin" "$venv/servers/unpacked/archives/partial"
wrap=$(cd "$venv/servers/bin" && pwd)
root=$(cd "$venv/servers/unpacked" && pwd)

has() {
    PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "$1" >/dev/null || ls /usr/lib/postgresql/*/bin/"$1" >/dev/null 2>&1
}

missing=
has postgres || missing="$missing postgresql"
has nginx || missing="$missing nginx-light"
has promtool || missing="$missing prometheus"
has faketime || missing="$missing faketime"
[ -n "$missing" ] || exit 0

give_up() {
    echo "Not here, and not to be had:$missing ($1). Tests that need them are skipped." >&2
    exit 0
}

command -v apt-get >/dev/null || give_up "no apt-get"
command -v dpkg-deb >/dev/null || give_up "no dpkg-deb"
echo "Fetching for the tests:$missing (once, into $venv)" >&2
# shellcheck disable=SC2086  # the names are words
apt-get -qq --download-only --yes --no-install-recommends -o Debug::NoLocking=1 \
    -o Dir::Cache::archives="$root/archives" install $missing >"$root/log" 2>&1 ||
    give_up "$(tail -n 1 "$root/log")"
for package in "$root"/archives/*.deb; do
    [ -e "$package" ] || give_up "nothing came"
    dpkg-deb -x "$package" "$root"
done
rm -rf "$root/archives"

# Each program behind a name that tells it where its libraries are.
libraries=$(find "$root" -type d -name '*-linux-gnu' | tr '\n' ':')
for program in "$root"/usr/lib/postgresql/*/bin/* "$root"/usr/sbin/nginx "$root"/usr/bin/prom*; do
    [ -x "$program" ] || continue
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s${LD_LIBRARY_PATH:-} exec %s "$@"\n' \
        "$libraries" "$program" >"$wrap/$(basename "$program")"
    chmod +x "$wrap/$(basename "$program")"
done
