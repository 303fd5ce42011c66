#!/usr/bin/env bash
# Proves that the newest snapshot of a stack can be restored, and changes nothing. Needs the team's private key
# in BACKUP_KEY. Writes the report to a file; exit status 0 if it is good, 1 if it is not or is too old, 3 if
# pulumi failed. A stack that stores no snapshots is skipped.
# shellcheck source=ci/lib.sh
. "$(dirname "$0")/lib.sh"

arguments "STACK REPORT" $#
skip_example "$@"
if ! grep -q '^ *"\?nordmesh:backup"\?:' "Pulumi.$1.yaml"; then
    echo "Pulumi.$1.yaml has no section backup: no snapshot is stored." | tee "$2"
    exit 0
fi
[[ -n ${BACKUP_KEY:-} ]] || {
    echo "BACKUP_KEY is not set: it is the private key that age-keygen wrote." >&2
    exit 2
}
identity=$(mktemp)
trap 'rm -f "$identity"' EXIT
printf '%s\n' "$BACKUP_KEY" >"$identity"
unset BACKUP_KEY
"$PYTHON" -m cli backup check --stack "$1" --identity "$identity" --compare 2>&1 | tee "$2"
