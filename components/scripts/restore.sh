#!/usr/bin/env bash
# An unfinished restore of a control plane, for the scripts that use it after identity.sh.

# shellcheck disable=SC2034 # for the scripts that use this
{
    readonly ETCD_DATA=/var/lib/etcd
    # Holds the name of the snapshot, from the first change by a restore until the end of it.
    readonly RESTORING=/etc/kubernetes/nordmesh-restoring
}

# has_placed: whether etcd's data and the PKI of a snapshot are in place. The mark that kubeadm-init.sh writes
# first is the last that restore-place.sh writes.
has_placed() { [ -f "$STARTED" ] || [ -f "$INITIALISED_MARK" ]; }
