#!/usr/bin/env bash
# Checks the GitHub workflows, and the shell in them. Builds actionlint once, from the Go modules
# that ci/tools pins, with the Go of the Python environment. The arguments are more files to check.
# shellcheck source=ci/lib.sh
. "$(dirname "$0")/lib.sh"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/nordmesh
pinned=$(cat ci/tools/go.mod ci/tools/go.sum | sha256sum | cut -c 1-16)
program=$cache/bin/actionlint/actionlint-$pinned

build() {
    local go
    go=$("$PYTHON" -c 'import go, pathlib; print(pathlib.Path(go.__file__).parent / "bin" / "go")')
    mkdir -p "$(dirname "$program")"
    work=$(mktemp -d "$cache/actionlint.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "building actionlint, once" >&2
    GOFLAGS="-mod=readonly -modcacherw -trimpath" GOTOOLCHAIN=local CGO_ENABLED=0 \
        GOCACHE=$work/cache GOMODCACHE=$work/modules \
        "$go" build -C ci/tools -o "$work/actionlint" github.com/rhysd/actionlint/cmd/actionlint
    mv "$work/actionlint" "$program"
}

[[ -x $program ]] || build
[[ $# -gt 0 ]] || set -- .github/workflows/*.yaml
"$program" -no-color -shellcheck .venv/bin/shellcheck -pyflakes "" "$@"
