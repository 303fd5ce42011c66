#!/usr/bin/env bash
# Compares nodes, cluster and mesh with the stack file, and changes nothing. Writes the report as
# Markdown to a file; exit status 0 without drift, 1 with drift, 3 if a check was inconclusive.
# shellcheck source=ci/lib.sh
. "$(dirname "$0")/lib.sh"

arguments "STACK REPORT" $#
skip_example "$@"
"$PYTHON" -m cli drift --stack "$1" | tee "$2"
