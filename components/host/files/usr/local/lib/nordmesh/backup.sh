#!/usr/bin/env bash
# Runs on a control plane as the service nordmesh-backup, by a timer: stores a snapshot of etcd and of the
# cluster's PKI, encrypted to the team's keys and signed with this machine's SSH host key. Only the node whose
# etcd leads does so: it is healthy, and there is one. cli/backup/snapshots.py reads what this writes.
# Reads /etc/nordmesh/backup.conf: CLUSTER, NODE, PLACE (a path of rclone), SIGNER (the file of the host key).
set -euo pipefail
umask 077
export LC_ALL=C PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin

readonly SETTINGS=/etc/nordmesh
readonly PKI=/etc/kubernetes/pki ETCD=https://127.0.0.1:2379
readonly WORK=/var/lib/nordmesh/backup
# Free disk space that must remain beside the snapshot, because etcd stops on a full disk.
readonly SPARE_MIB=${SPARE_MIB:-512}
# shellcheck source=/dev/null # written by backup-install.sh
. "$SETTINGS/backup.conf"

# fail CODE WHAT WHY FIX: ends the script with an error in the form of config.errors.render.
fail() {
    printf 'ERROR on node %s: %s [%s]\n    why   %s\n    fix   %s\n' "$NODE" "$2" "$1" "$3" "$4" >&2
    exit 1
}
trap 'rm -rf "$WORK"' EXIT
trap 'echo "ERROR on node $NODE: this command failed: ${BASH_COMMAND%%$'"'\n'"'*} [backup-command-failed]" >&2' ERR

# ask_etcd METHOD SECONDS: the answer of a method of etcd's maintenance service, as JSON.
ask_etcd() {
    curl --silent --show-error --fail --noproxy '*' --max-time "$2" --data '{}' \
        --cacert "$PKI/etcd/ca.crt" --cert "$PKI/etcd/healthcheck-client.crt" \
        --key "$PKI/etcd/healthcheck-client.key" "$ETCD/v3/maintenance/$1"
}

# field NAME JSON: the value of a field that is a number or a version; nothing if it is absent.
field() { sed -n "s/.*\"$1\":\"\([0-9][0-9.]*\)\".*/\1/p" <<<"$2"; }

# keys_in PKI: a hash of the file with the keys of Secrets in a directory of certificates; `none` without one.
keys_in() {
    [ -e "$1/encryption.yaml" ] || { echo none && return; }
    sha256sum <"$1/encryption.yaml"
}

# store FILE: copies a file to the place. It never reads, lists or replaces there: the login may not be
# allowed to.
store() {
    rclone --config "$SETTINGS/rclone.conf" --quiet --no-check-dest copyto "$WORK/$1" "$PLACE/$1" ||
        fail backup-not-stored "rclone cannot store $1 at $PLACE" \
            "the error is shown above; everything since the last stored snapshot would be lost with the control planes" \
            "check the login and the permission to write, then run \`systemctl start nordmesh-backup\` on $NODE"
}

rm -rf "$WORK"
mkdir -p "$WORK"

status=$(ask_etcd status 10) || fail backup-etcd-silent "etcd does not answer on this node" \
    "there is nothing to take a snapshot of" \
    "check \`journalctl -u kubelet\` and the pod etcd-$NODE"
leader=$(field leader "$status")
[ "${leader:-0}" != 0 ] || fail backup-without-leader "etcd has no leader" \
    "without a quorum of its members, nobody knows which data is the newest" \
    "bring the other control planes back; \`nordmesh status\` shows which are missing"
if [ "$leader" != "$(field member_id "$status")" ]; then
    echo "the etcd of another node leads; that node stores the snapshot"
    exit 0
fi
[[ $status != *CORRUPT* ]] || fail backup-etcd-corrupt "etcd reports that members have different data" \
    "a snapshot could contain the wrong one" \
    "replace the member that etcd's log names"

size=$(field dbSize "$status")
free=$(df --output=avail -BM "$WORK" | tail -n 1 | tr -dc 0-9)
needed=$((${size:-0} * 2 / 1048576 + SPARE_MIB))
[ "$free" -ge "$needed" ] || fail backup-disk-full "$free MiB free below $WORK, $needed MiB needed" \
    "etcd stops when its disk is full" \
    "free space or grow the disk"

time=$(date -u +%Y%m%dT%H%M%SZ)
name=$time-$NODE
# The keys of Secrets that this node has open every Secret in etcd. A rotation may change them meanwhile.
for attempt in 1 2 3; do
    rm -rf "$WORK/pki"
    cp -a "$PKI" "$WORK/pki"
    before=$(keys_in "$WORK/pki")
    ask_etcd snapshot 600 | sed -n 's/.*"blob":"\([^"]*\)".*/\1/p' | base64 -d >"$WORK/etcd.db"
    after=$(keys_in "$PKI")
    [ "$before" != "$after" ] || break
    [ "$attempt" -lt 3 ] || fail backup-keys-changed "the keys of Secrets changed during each of three snapshots" \
        "the snapshot could have Secrets that its keys do not open" \
        "wait until \`pulumi up\` has rotated the key, then run \`systemctl start nordmesh-backup\` on $NODE"
done
# etcd ends a snapshot with the SHA-256 of all before it, and writes pages of 512 bytes or a multiple.
bytes=$(stat -c %s "$WORK/etcd.db")
if [ $((bytes % 512)) != 32 ] ||
    [ "$(head -c -32 "$WORK/etcd.db" | sha256sum | cut -d ' ' -f 1)" != "$(tail -c 32 "$WORK/etcd.db" | od -An -v -tx1 | tr -d ' \n')" ]; then
    fail backup-snapshot-incomplete "etcd's snapshot is cut short or altered ($bytes bytes)" \
        "nothing could be restored from it" \
        "run \`systemctl start nordmesh-backup\` on $NODE; if this happens again, check the disk of etcd"
fi

tar --create --directory "$WORK" etcd.db pki |
    zstd --quiet | age --encrypt --recipients-file "$SETTINGS/backup-keys" >"$WORK/$name.age"
cat >"$WORK/$name.manifest" <<END
nordmesh-backup 1
cluster $CLUSTER
node $NODE
time $time
revision $(field revision "$status")
etcd $(field version "$status")
ca $(sha256sum <"$PKI/ca.crt" | cut -d ' ' -f 1)
size $(stat -c %s "$WORK/$name.age")
sha256 $(sha256sum <"$WORK/$name.age" | cut -d ' ' -f 1)
END
ssh-keygen -q -Y sign -f "$SIGNER" -n nordmesh-backup "$WORK/$name.manifest" 2>/dev/null ||
    fail backup-not-signed "ssh-keygen cannot sign with $SIGNER" \
        "without a signature, nobody could tell this snapshot from a forged one" \
        "check that the file is the host key that the stack file names; \`ssh-keygen -A\` creates a missing one"
mv "$WORK/$name.manifest.sig" "$WORK/$name.sig"
# The signature last: without it, a snapshot is incomplete.
for part in age manifest sig; do store "$name.$part"; done
# `nordmesh status` shows this note of the node; a snapshot without it is as good.
kubectl --kubeconfig /etc/kubernetes/kubelet.conf --request-timeout 10s annotate --overwrite \
    node "$NODE" "nordmesh.io/snapshot=$name" >/dev/null ||
    echo "WARNING: the API server did not take the note of $name" >&2
echo "stored $name: revision $(field revision "$status"), $(stat -c %s "$WORK/$name.age") bytes"
