#!/usr/bin/env bash
# Deploys a stack, with the policy pack. Safe to run again after it was killed at any moment. Takes the
# backend and the passphrase from the environment, as ci/preview.sh.
# shellcheck source=ci/lib.sh
. "$(dirname "$0")/lib.sh"

arguments "STACK" $#
skip_example "$1"
exec pulumi up --stack "$1" --yes --non-interactive --suppress-progress --suppress-outputs \
    --policy-pack "$POLICY"
