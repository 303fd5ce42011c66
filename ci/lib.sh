# shellcheck shell=bash
# Sourced by the other scripts here: works from the checkout's root, with its Python environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export PYTHON=.venv/bin/python
# The policy pack that every preview and update must pass.
export POLICY=policy

# arguments NAMES COUNT: ends the script unless it was given as many arguments as it names.
arguments() {
    local -a names
    read -ra names <<<"$1"
    [[ $2 == "${#names[@]}" ]] && return 0
    printf 'usage: %s %s\n' "$0" "$1" >&2
    exit 2
}

# skip_example STACK [REPORT]: ends the script, successfully, if the stack file is marked as an
# example; says so, in the report too.
skip_example() {
    local kind
    kind=$("$PYTHON" -m cli ci kind "$1")
    [[ $kind == example ]] || return 0
    printf '%s\n' "\`Pulumi.$1.yaml\` is an example: nothing was run. Remove \`nordmesh-ci:example\` from it to deploy it." |
        tee "${@:2}"
    exit 0
}

lab/bootstrap.sh >&2
