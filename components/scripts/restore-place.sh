#!/usr/bin/env bash
# Places the data of a snapshot on the control plane that kubeadm-init.sh starts next: etcd's data directory,
# and the keys of the cluster's CAs, with which kubeadm makes every other certificate. Reads: NODE_NAME ENDPOINT
# SNAPSHOT BUNDLE (the file with both) SHA256.
#
# etcd's data is placed first, and the mark of kubeadm-init.sh last: between the two, that script refuses the
# machine, so that no empty cluster gets the CA of the old one. Then this script begins again.
# Uses: identity.sh restore.sh

readonly NEW_DATA=$ETCD_DATA/member.new
readonly NEW_PKI=/etc/kubernetes/pki.new

single_run
refuse_other_owner
trap 'rm -f "$BUNDLE"' EXIT
[ "$(cat "$RESTORING")" = "$SNAPSHOT" ] || fail restore-not-begun "this machine has no mark of a restore of $SNAPSHOT" \
    "without it, nobody knows whether its data may be replaced; nothing was changed" \
    "run \`nordmesh restore\` again"
if has_placed; then
    step "has the data of $SNAPSHOT"
    exit 0
fi
[ "$(sha256sum <"$BUNDLE")" = "$SHA256  -" ] || fail restore-upload-altered "$BUNDLE is cut short or altered" \
    "the cluster would start with wrong data; nothing was changed" \
    "run \`nordmesh restore\` again"
logged kubelet-stop systemctl stop kubelet
# Left by an interrupted restore.
rm -rf "$NEW_DATA" "$NEW_PKI" "$ETCD_DATA/member" /etc/kubernetes/{pki,manifests,nordmesh-made} \
    /etc/kubernetes/*.conf /var/lib/kubelet/pki
install -d -m 700 "$ETCD_DATA" "$NEW_DATA" "$NEW_PKI"
# Both beside their places, so that the moves are atomic: etcd may have a separate disk.
tar --extract --gzip --file "$BUNDLE" --directory "$NEW_DATA" --strip-components=1 --no-same-owner member
tar --extract --gzip --file "$BUNDLE" --directory "$NEW_PKI" --strip-components=1 --no-same-owner pki
# The whole file systems: the sync of a directory writes none of its files.
sync --file-system "$NEW_DATA" "$NEW_PKI"
mv -T "$NEW_DATA" "$ETCD_DATA/member"
mv -T "$NEW_PKI" /etc/kubernetes/pki
touch "$STARTED"
step "has the data of $SNAPSHOT"
