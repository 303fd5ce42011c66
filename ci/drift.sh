#!/usr/bin/env bash
# Asks nodes, cluster and mesh whether they still are what the program would make, and changes nothing.
# Writes the report as Markdown to a file; exit status 0 if nothing differs, 1 if something does, 2 if
# it could not be found out.
# shellcheck source=ci/lib.sh
. "$(dirname "$0")/lib.sh"

arguments "STACK REPORT" $#
skip_example "$@"
"$PYTHON" -m cli.drift --stack "$1" | tee "$2"
