#!/usr/bin/env bash
# Creates the Python environment .venv from the locks of nordmesh and of the lab; takes no time if it
# exists already. Safe to run again after it was killed at any line.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

has_python() { python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
can_make_venv() { has_python && python3 -c 'import ensurepip, venv' 2>/dev/null; }

install_python() {
    [[ $(id -u) == 0 ]] || fail "Python's venv module is missing; install the package python3-venv, or run as root"
    command -v apt-get >/dev/null ||
        fail "Python 3.11 or newer with its venv module is needed; install it"
    echo "installing Debian packages: python3-venv ca-certificates"
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update || true # an old index may still be good enough
    apt-get -qq install -y --no-install-recommends python3-venv ca-certificates >/dev/null ||
        fail "apt-get could not install python3-venv; fix this machine's package sources"
    can_make_venv || fail "python3 is $(python3 --version 2>&1); 3.11 or newer is needed (Debian 12 has it)"
}

# The command nordmesh runs the code of this checkout. A linked environment belongs to another
# checkout and keeps the command of that one.
has_command() {
    [[ -L .venv ]] || grep -qsxF "$(pwd -P)" .venv/lib/python3*/site-packages/_editable_impl_nordmesh.pth
}

make_environment() {
    .venv/bin/python -c 'import pip' 2>/dev/null || python3 -m venv --clear .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
        --require-hashes --requirement requirements.lock --requirement lab/requirements.lock
    has_command || .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input \
        --no-index --no-deps --no-build-isolation --editable .
}

stamp=.venv/.requirements.sha256
lock=$(cat requirements.lock lab/requirements.lock | sha256sum)
is_made() { [[ -x .venv/bin/python && $(cat "$stamp" 2>/dev/null) == "$lock" ]] && has_command; }

is_made && exit 0
can_make_venv || install_python
exec 9<requirements.lock
flock 9 # two `make` at once
if ! is_made; then
    echo "making the Python environment from requirements.lock and lab/requirements.lock"
    started=$SECONDS
    make_environment
    printf '%s\n' "$lock" >"$stamp"
    echo "      done in $((SECONDS - started))s"
fi
