#!/usr/bin/env bash
# Generates the SSH host key of a guest. Runs on the machine that runs Pulumi, and keeps nothing: the key is
# in the stack's state, as a secret.
#
# Out: one line of JSON, {"public": ..., "private": ...}
set -euo pipefail
umask 077

command -v ssh-keygen >/dev/null || {
    printf 'ERROR: ssh-keygen is not installed on this machine [no-ssh-keygen]\n    fix   %s\n' \
        "run \`apt-get install openssh-client\`" >&2
    exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ssh-keygen -q -t ed25519 -N '' -C '' -f "$work/key"
private=$(<"$work/key")
printf '{"public":"%s","private":"%s\\n"}\n' \
    "$(cut -d' ' -f1,2 "$work/key.pub")" "${private//$'\n'/\\n}"
