#!/usr/bin/env bash
# Previews a stack against its state, with the policy pack, and writes the summary for the pull
# request as Markdown. Its exit status is the preview's: 0, or 1 for a failure, which the summary shows.
# Takes the backend and the passphrase from PULUMI_BACKEND_URL and PULUMI_CONFIG_PASSPHRASE, and the
# backend's login as in docs/state.md.
# shellcheck source=ci/lib.sh
. "$(dirname "$0")/lib.sh"

arguments "STACK SUMMARY" $#
skip_example "$@"
exec "$PYTHON" -m cli review --stack "$1" --policy-pack "$POLICY" >"$2"
