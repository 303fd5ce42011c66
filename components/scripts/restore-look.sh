#!/usr/bin/env bash
# Runs on a control plane before a restore. Changes nothing. Prints lines `name value`: `owner` (another node or
# cluster that the machine belongs to), `etcd` (`running`, `stopped` or `none`: whether it has etcd's data),
# `cluster` (`yes` if it has other files of a cluster), `restoring` (the snapshot of an unfinished restore) and
# `placed` (`yes` if that has placed its data) and `missing` (the directory for snapshots, if it is not there).
# Reads: NODE_NAME ENDPOINT DIRECTORY (empty for a bucket).
# Uses: identity.sh restore.sh

owner=$(other_owner)
etcd=none cluster=no unfinished="" placed=no missing=""
if [ -d "$ETCD_DATA/member" ]; then
    etcd=stopped
    # Processes end while grep reads.
    running=$(grep -lsx etcd /proc/[0-9]*/comm) || true
    [ -z "$running" ] || etcd=running
fi
if [ -s "$KUBELET_CONF" ] || [ -s "$ADMIN_CONF" ] || [ -d /etc/kubernetes/pki ]; then cluster=yes; fi
[ ! -f "$RESTORING" ] || unfinished=$(cat "$RESTORING")
! has_placed || placed=yes
[ -z "$DIRECTORY" ] || [ -d "$DIRECTORY" ] || missing=$DIRECTORY
printf '%s %s\n' owner "$owner" etcd "$etcd" cluster "$cluster" restoring "$unfinished" placed "$placed" \
    missing "$missing"
