#!/usr/bin/env bash
# Brings a stack to what its file says, with the policy pack. Safe to run again after being ended at
# any moment. Takes the backend and the passphrase from the environment, as ci/preview.sh.
# shellcheck source=ci/lib.sh
. "$(dirname "$0")/lib.sh"

arguments "STACK" $#
skip_example "$1"
exec pulumi up --stack "$1" --yes --non-interactive --suppress-progress --suppress-outputs \
    --policy-pack "$POLICY"
