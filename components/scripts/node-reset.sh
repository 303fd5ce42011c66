#!/usr/bin/env bash
# Removes Kubernetes from this machine: stops kubelet and every container, and removes the cluster's files,
# the container runtime, the firewall and the holds of packages. Reads:
# NODE_NAME ENDPOINT ALLOW_DATA_LOSS, and from stdin the kubeconfig that a worker joined with. Leaves
# packages, images and volumes outside /var/lib/kubelet as they are. A machine that is now another node, or
# in another cluster, is left alone: a worker knows its cluster by its CA, a control plane by its endpoint.
# Uses: identity.sh apt.sh runtime.sh endpoint.sh firewall.sh host.sh

# Before the lock: if the connection is gone, it may never come.
discovery=$(cat)
single_run
owner=$(other_owner)
if [ -z "$owner" ] && [ -n "$discovery" ] && [ -s /etc/kubernetes/pki/ca.crt ] && ! has_ca "$discovery"; then
    owner="$NODE_NAME of another cluster"
fi
if [ -n "$owner" ]; then
    step "this machine is now node $owner: nothing was changed"
    exit 0
fi
if [ -d /var/lib/etcd/member ] && [ "$ALLOW_DATA_LOSS" != true ]; then
    fail node-has-etcd "this node has the cluster's etcd data" \
        "without it every object of the cluster is lost" \
        "to lose the data, $CLEAR; then run \`pulumi up\` again"
fi
if [ -f "$JOINED_MARK" ] && [ "$ALLOW_DATA_LOSS" != true ]; then
    has_answer || fail api-server-silent "the API server has not answered for $API_SECONDS s" \
        "this node has joined, and only the API server knows whether it has left the cluster; nothing was changed" \
        "check that the control plane runs and that this node reaches it on port 6443, then run \`pulumi up\` again; if the cluster is lost for good, $CLEAR"
    [ -z "$answer" ] || fail still-in-cluster "$NODE_NAME is still a node of the cluster" \
        "its pods have not been moved; nothing was changed" \
        "to remove it, take it out of the stack file and run \`pulumi up\`, which drains it first. To destroy the stack, add the entry {volumes: $NODE_NAME, reason: ...} to nordmesh:machines.allowDataLoss and run \`pulumi up\` before that"
fi

step "stop kubelet and containers"
# This also fails without a unit; what counts is that kubelet does not run.
systemctl disable --quiet --now kubelet 9>&- 2>/dev/null || true
! is_active kubelet || fail kubelet-does-not-stop "kubelet does not stop" \
    "it would start containers again" \
    "check \`systemctl status kubelet\` on the node, then run \`pulumi up\` again"
if is_active containerd; then
    tasks=$(ctr -n k8s.io tasks ls -q)
    for task in $tasks; do
        ctr -n k8s.io tasks kill -s SIGKILL "$task" 2>/dev/null || true
    done
    containers=$(ctr -n k8s.io containers ls -q)
    for container in $containers; do
        ctr -n k8s.io tasks delete -f "$container" >/dev/null 2>&1 || true
        ctr -n k8s.io containers delete "$container" 2>/dev/null || true
    done
fi
remove_runtime
awk '$2 ~ "^/var/lib/kubelet/" {print $2}' /proc/mounts | sort -r | while read -r mounted; do
    umount "$mounted" || umount -l "$mounted"
done
rm -rf /etc/kubernetes /var/lib/kubelet /etc/cni/net.d /run/flannel /var/lib/cni
if [ "$ALLOW_DATA_LOSS" = true ]; then
    # A separate disk of etcd stays mounted.
    if mountpoint -q /var/lib/etcd; then rm -rf /var/lib/etcd/member; else rm -rf /var/lib/etcd; fi
fi
for link in cni0 flannel.1; do
    ip link delete "$link" 2>/dev/null || true
done
# Of kubelet-start.sh, on a machine without a default route.
ip route flush dev lo proto 87 2>/dev/null || true
host_reset
step "reset"
