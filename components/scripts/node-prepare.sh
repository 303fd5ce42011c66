#!/usr/bin/env bash
# Prepares a machine to become a Kubernetes node: packages, sysctls, the pinned containerd, kubeadm, kubelet
# and kubectl. Reads: NODE_NAME ENDPOINT
# ENDPOINT_ADDRESS RUNTIME KUBERNETES_VERSION BINARIES IMAGES CGROUP_DRIVER DISK_MIB ALLOW_SWAP, and what
# files.sh and host.sh read. Restarts only what changed, and does not touch kubelet's data. Refuses
# the machine of another node or cluster, and changes of settings that a cluster keeps, before it changes
# anything.
# Uses: identity.sh apt.sh fetch.sh files.sh runtime.sh images.sh firewall.sh host.sh

readonly KUBELET_RESTART=/var/lib/nordmesh/kubelet.restart
readonly SYSCTL_FILE=/etc/sysctl.d/99-nordmesh.conf
readonly PACKAGES="iptables iproute2 conntrack socat ebtables ethtool kmod ca-certificates curl"

packages() {
    # shellcheck disable=SC2046,SC2086 # lists of names
    install_packages $PACKAGES $(host_packages)
}

# A node of a cluster keeps its version: kubelet must not be newer than the API server.
require_same_version() {
    local has
    [ -f "$KUBELET_CONF" ] && [ -x /usr/local/bin/kubelet ] || return 0
    has=$(kubelet --version)
    [ "$has" = "Kubernetes v$KUBERNETES_VERSION" ] ||
        fail version-differs "this node runs $has, the stack file has v$KUBERNETES_VERSION" \
            "this release does not upgrade an existing cluster" \
            "set nordmesh:kubernetes.version back to its old value"
}

# containerd must use the cgroup driver that the cluster gave to this node's kubelet.
require_same_cgroup_driver() {
    local has
    [ -f "$INITIALISED_MARK" ] || [ -f "$JOINED_MARK" ] || return 0
    has=$(sed -n 's/^cgroupDriver: //p' /var/lib/kubelet/config.yaml)
    [ "${has:-$CGROUP_DRIVER}" = "$CGROUP_DRIVER" ] ||
        fail cgroup-driver-differs "this node's kubelet has the cgroup driver $has, the stack file has $CGROUP_DRIVER" \
            "if containerd and kubelet used different drivers, every pod would restart; nothing was changed" \
            "set nordmesh:kubernetes.cgroupDriver back to $has"
}

require_no_swap() {
    [ "$ALLOW_SWAP" = true ] || [ "$(wc -l </proc/swaps)" -le 1 ] ||
        fail swap-on "swap is on" \
            "kubelet 1.23 does not start with swap; nothing was changed" \
            "run \`swapoff -a\`, remove swap from /etc/fstab and mask the units that turn it on, then run \`pulumi up\` again"
}

# with_higher_limits TEXT: the sysctls in a text; a limit (fs.*) that is higher on this machine stays.
with_higher_limits() {
    local line key value own
    while read -r line; do
        IFS=' =' read -r key value <<<"$line"
        if [[ $key = fs.* ]] && own=$(cat "/proc/sys/${key//.//}") && [ "$own" -gt "$value" ]; then
            line="$key = $own"
        fi
        printf '%s\n' "$line"
    done <<<"$1"
}

kernel() {
    local module text
    for module in overlay br_netfilter; do
        grep -sqw "$module" /proc/modules || [ -d "/sys/module/$module" ] || modprobe "$module" 2>/dev/null || true
    done
    [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ] || fail no-br-netfilter "the kernel has no br_netfilter" \
        "without it, pods cannot reach services whose pods are on the same node" \
        "use a kernel with the module br_netfilter (Debian's cloud and generic kernels have it)"
    write_files kernel
    text=$(file_text "$SYSCTL_FILE")
    text=$(with_higher_limits "$text")
    # shellcheck disable=SC2034 # for write_files
    local FILES="=== 644 sysctls $SYSCTL_FILE"$'\n'"$text"
    write_files sysctls
    logged sysctl sysctl -q -p "$SYSCTL_FILE"
}

# add_endpoint FILE: a line that resolves the cluster's endpoint.
add_endpoint() {
    local rest
    rest=$(sed '/# nordmesh$/d' "$1")
    write_file "$1" 644 "$rest"$'\n'"$ENDPOINT_ADDRESS $ENDPOINT # nordmesh" || true
}

hosts() {
    local template
    add_endpoint /etc/hosts
    # With manage_etc_hosts, cloud-init overwrites /etc/hosts from its template at each boot.
    for template in /etc/cloud/templates/hosts.*.tmpl; do
        [ ! -f "$template" ] || add_endpoint "$template"
    done
}

# Pulls images while programs are downloaded; kubeadm waits for those that have a digest. Another image
# that is not pulled is not an error: kubelet pulls it again, and reports why it fails.
images() {
    write_file "$IMAGES_FILE" 644 "$IMAGES" || true
    pull_images
}

kubelet_service() {
    write_files_read_at_start "$KUBELET_RESTART" kubelet
    if [ -e "$KUBELET_RESTART" ]; then
        systemctl daemon-reload
        logged kubelet-restart systemctl try-restart kubelet
        rm -f "$KUBELET_RESTART"
    fi
    systemctl enable --quiet kubelet 2>/dev/null
}

[ "$(id -u)" = 0 ] || fail not-root "the login is not root" \
    "packages and services need root" \
    "use the user root, or one with sudo"
single_run
refuse_other_owner
require_same_version
require_same_cgroup_driver
require_no_swap
need_disk /var/lib/containerd "$DISK_MIB"
need_disk /usr/local/bin 500
packages
kernel
hosts
host
container_runtime
images
fetch_all "$BINARIES"
kubelet_service
# Pods of a node that has joined may need them at once.
[ ! -f "$KUBELET_CONF" ] || wait_for_images
step "prepared"
