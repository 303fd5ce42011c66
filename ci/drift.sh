#!/usr/bin/env bash
# Asks the cluster whether its objects are still what the state says, and changes nothing. Writes the
# differences to a file; exit status 1 if there is one, or if it could not be found out.
# shellcheck source=ci/lib.sh
. "$(dirname "$0")/lib.sh"

arguments "STACK REPORT" $#
pulumi preview --stack "$1" --refresh --expect-no-changes --diff --non-interactive \
    --suppress-progress --color=never 2>&1 | tee "$2"
