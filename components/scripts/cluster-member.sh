#!/usr/bin/env bash
# Runs on a control plane of the stack file before another one is made. Changes nothing. Prints one line:
# `member` if this machine is a control plane of the stack's cluster; `none` if it has no cluster; `started` or
# `joining` if it was interrupted while it became the first or a further control plane; `other OWNER` if it is
# another node; `remains` if it has files of an unknown cluster. Reads: NODE_NAME ENDPOINT.
# Uses: identity.sh

owner=$(other_owner)
if [ -n "$owner" ]; then
    echo "other $owner"
elif [ -f "$INITIALISED_MARK" ]; then
    echo member
elif [ -f "$STARTED" ]; then
    echo started
elif [ -f "$JOINING" ]; then
    echo joining
elif [ -d /var/lib/etcd/member ] || [ -s "$KUBELET_CONF" ] || [ -s "$ADMIN_CONF" ]; then
    echo remains
else
    echo none
fi
