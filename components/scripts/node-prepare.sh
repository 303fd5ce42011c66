#!/usr/bin/env bash
# Prepares a machine to become a Kubernetes node: packages, sysctls, the pinned containerd, kubeadm, kubelet
# and kubectl. Reads: NODE_NAME ENDPOINT
# ENDPOINT_ADDRESS RUNTIME KUBERNETES_VERSION BINARIES IMAGES CGROUP_DRIVER DISK_MIB ALLOW_SWAP, and what
# files.sh and host.sh read. Restarts only what changed, and does not touch kubelet's data. Refuses
# the machine of another node or cluster, and changes of settings that a cluster keeps, before it changes
# anything.
# Uses: identity.sh apt.sh fetch.sh files.sh runtime.sh images.sh endpoint.sh firewall.sh host.sh

readonly KUBELET_RESTART=/var/lib/nordmesh/kubelet.restart
# Exists once this node was Ready; removed with the node.
readonly READY_MARK=/etc/kubernetes/nordmesh-ready
readonly READY_SECONDS=${READY_SECONDS:-300}
readonly SYSCTL_FILE=/etc/sysctl.d/99-nordmesh.conf
readonly PACKAGES="iptables iproute2 conntrack socat ebtables ethtool kmod ca-certificates curl"

packages() {
    before_haproxy
    # shellcheck disable=SC2046,SC2086 # lists of names
    install_packages $PACKAGES $(host_packages)
    after_haproxy
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

# with_endpoint FILE: prints a file with a line that resolves the cluster's endpoint.
with_endpoint() {
    sed '/# nordmesh$/d' "$1" && printf '%s\n' "$ENDPOINT_ADDRESS $ENDPOINT # nordmesh"
}

# add_endpoint FILE: adds the line.
add_endpoint() {
    local text
    text=$(with_endpoint "$1")
    write_file "$1" 644 "$text" || true
}

# pods_hosts: corrects the copies of /etc/hosts that pods on the node's network got at their start. A copy
# is mounted into its container, so that it must stay the same file.
pods_hosts() {
    local file text
    for file in /var/lib/kubelet/pods/*/etc-hosts; do
        grep -qs " $ENDPOINT # nordmesh$" "$file" || continue
        ! grep -qxF "$ENDPOINT_ADDRESS $ENDPOINT # nordmesh" "$file" || continue
        text=$(with_endpoint "$file")
        # The pod may end meanwhile.
        printf '%s\n' "$text" >"$file" || true
    done
}

# hosts: makes the API server's name lead to the control plane itself, or to a worker's load balancer.
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

# own KIND FIELDS [OPTION...]: prints fields of this node, or of its lease; asks as the node's kubelet.
own() {
    kubectl --kubeconfig "$KUBELET_CONF" --request-timeout 5s get "$1" "$NODE_NAME" -o "jsonpath=$2" "${@:3}" \
        2>"$ANSWER_LOG"
}

is_ready() {
    local status
    status=$(own node '{.status.conditions[?(@.type=="Ready")].status}') && [ "$status" = True ]
}

# has_renewed SINCE: whether kubelet has renewed its lease since then, which it does every 10 s. Until then,
# the API server may show a condition from before the change.
has_renewed() {
    local time
    time=$(own lease '{.spec.renewTime}' --namespace kube-node-lease) && [[ $time > $1 ]]
}

# Sets `answers`. The mark outlives a run that is killed or fails: the next one must make the node Ready.
remember_readiness() {
    answers=false
    [ -s "$KUBELET_CONF" ] || return 0
    own node '{.metadata.name}' >/dev/null || return 0
    answers=true
    ! is_ready || : >"$READY_MARK"
}

# A node that was Ready must be Ready again; the change starts on the next node only then.
require_ready() {
    local since deadline=$((SECONDS + READY_SECONDS))
    [ -e "$READY_MARK" ] || return 0
    if ! $answers; then
        warn "the API server did not answer, so nobody has checked that this node is Ready after the change"
        return 0
    fi
    since=$(date -u +%Y-%m-%dT%H:%M:%S.%6N)
    until has_renewed "$since" && is_ready; do
        [ "$SECONDS" -lt "$deadline" ] || {
            own node '{.status.conditions[?(@.type=="Ready")].message}{"\n"}' >&2 || cat "$ANSWER_LOG" >&2
            fail node-not-ready "this node is not Ready $READY_SECONDS s after the change" \
                "it was Ready before; the change does not start on the next node" \
                "set back what you changed, or find the cause in \`journalctl -u kubelet -u containerd\` on the node; then run \`pulumi up\` again"
        }
        sleep 0.5
    done
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
remember_readiness
packages
kernel
# On a worker, the name leads to the load balancer once that answers.
has_files endpoint || hosts
host
! has_files endpoint || hosts
pods_hosts
container_runtime
images
fetch_all "$BINARIES"
kubelet_service
# Pods of a node that has joined may need them at once.
[ ! -f "$KUBELET_CONF" ] || wait_for_images
require_ready
step "prepared"
