#!/usr/bin/env bash
# Previews a stack with an empty state and without any secret, for a pull request from a fork. Works on
# a copy, with a passphrase and an SSH key that exist only while this script runs. Writes the summary
# as Markdown; its exit status is the preview's.
# shellcheck source=ci/lib.sh
. "$(dirname "$0")/lib.sh"

arguments "STACK SUMMARY" $#
stack=$1 summary=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

git ls-files -z | tar --create --null --files-from=- | tar --extract --directory "$work"
ln -s "$(realpath .venv)" "$work/.venv"
cd "$work"
mkdir state
PULUMI_BACKEND_URL="file://$work/state"
PULUMI_CONFIG_PASSPHRASE=$(head -c 24 /dev/urandom | base64)
export PULUMI_BACKEND_URL PULUMI_CONFIG_PASSPHRASE
unset PULUMI_CONFIG_PASSPHRASE_FILE
"$PYTHON" -m cli ci strip-secrets "Pulumi.$stack.yaml" >stand-ins
pulumi stack init "$stack" --non-interactive >&2
"$PYTHON" -m cli ci new-key |
    pulumi config set --stack "$stack" --secret nordmesh:sshPrivateKey --non-interactive
while read -r key value; do
    pulumi config set --stack "$stack" --secret "$key" --non-interactive <<<"$value"
done <stand-ins
"$PYTHON" -m cli review --stack "$stack" --policy-pack "$POLICY" >"$summary"
