#!/usr/bin/env bash
# Takes Kubernetes off this machine again: stops kubelet and every container,
# removes the cluster's files, the container runtime, the firewall and the holds of packages. Reads:
# NODE_NAME ALLOW_DATA_LOSS. Leaves packages, images and volumes outside /var/lib/kubelet as they
# are.
# Uses: runtime.sh firewall.sh host.sh

if [ -d /var/lib/etcd/member ] && [ "$ALLOW_DATA_LOSS" != true ]; then
    fail "this node holds the cluster's etcd" "removing it loses every object of the cluster" \
        "set nordmesh:machines.allowDataLoss to true, run \`pulumi up\`, then destroy"
fi

single_run
step "stop kubelet and containers"
systemctl disable --quiet --now kubelet 9>&- 2>/dev/null || true
if systemctl is-active --quiet containerd; then
    for task in $(ctr -n k8s.io tasks ls -q); do
        ctr -n k8s.io tasks kill -s SIGKILL "$task" 2>/dev/null || true
    done
    for container in $(ctr -n k8s.io containers ls -q); do
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
    # A disk of etcd's own stays mounted there.
    if mountpoint -q /var/lib/etcd; then rm -rf /var/lib/etcd/member; else rm -rf /var/lib/etcd; fi
fi
for link in cni0 flannel.1; do
    ip link delete "$link" 2>/dev/null || true
done
host_reset
step "reset"
