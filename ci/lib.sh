# shellcheck shell=bash
# Sourced by the other scripts here: enters the checkout's root, and uses its Python environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export PYTHON=.venv/bin/python
# The policy pack that every preview and update must pass.
export POLICY=policy

# arguments NAMES COUNT: exits with the usage unless the script has the named number of arguments.
arguments() {
    local -a names
    read -ra names <<<"$1"
    [[ $2 == "${#names[@]}" ]] && return 0
    printf 'usage: %s %s\n' "$0" "$1" >&2
    exit 2
}

# skip_example STACK [REPORT]: exits successfully if the stack file is marked as an example, and
# reports it.
skip_example() {
    local kind
    kind=$("$PYTHON" -m cli ci kind "$1")
    [[ $kind == example ]] || return 0
    printf '%s\n' "\`Pulumi.$1.yaml\` is an example: nothing was run. Remove \`nordmesh-ci:example\` from it to deploy it." |
        tee "${@:2}"
    exit 0
}

lab/bootstrap.sh >&2
