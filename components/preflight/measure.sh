#!/usr/bin/env bash
# Measures a machine before Kubernetes is installed on it, with the tools of a bare Debian. Changes nothing:
# the only files that it creates are for the test of the disk, which is unlinked before anything is written
# to it, and indexes of package sources in /run; no service is touched. Reads: ADDRESS PEERS WINDOW ETCD NAMES
# ENDPOINTS PACKAGES PROBE KUBELET_START RESOLVER VOLUMES. Prints facts: a key, a tab, and a value; a key may come
# several times, and an empty value is unknown.
set -uo pipefail
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

fact() { printf '%s\t%s\n' "$1" "$2"; }
lines() { while IFS= read -r line; do fact "$1" "$line"; done; }
has() { command -v "$1" >/dev/null 2>&1; }
cpu_time() { grep -m1 '^cpu ' /proc/stat; }

is_member() { ls /etc/kubernetes/nordmesh-* >/dev/null 2>&1; }

# Whether a script of an earlier run still runs after its connection was cut, or the pulls that it started.
is_at_work() {
    { [ -e /run/nordmesh/lock ] && ! flock --nonblock /run/nordmesh/lock true 2>/dev/null; } ||
        systemctl is-active --quiet nordmesh-pull 2>/dev/null
}

# Wait until the machine is idle: otherwise its work would be measured, too, and the disk would seem slow. A
# member of a cluster is never idle, and is not refused for it.
for ((waited = 0; waited < 120; waited++)); do
    if is_member || ! is_at_work; then break; fi
    sleep 1
done
started=$SECONDS
fact cpu-before "$(cpu_time)"

system() {
    fact uid "$(id -u)"
    fact os "$(sed -n 's/^ID=//p' /etc/os-release | tr -d '"')"
    fact os-version "$(sed -n 's/^VERSION_ID=//p' /etc/os-release | tr -d '"')"
    fact architecture "$(uname -m)"
    fact virtualization "$(systemd-detect-virt 2>/dev/null)"
    fact hostname "$(cat /proc/sys/kernel/hostname)"
    fact machine-id "$(cat /etc/machine-id 2>/dev/null)"
    fact product-uuid "$(cat /sys/class/dmi/id/product_uuid 2>/dev/null)"
    fact cores "$(nproc)"
    fact cpu-flags "$(grep -m1 -E '^(flags|Features)' /proc/cpuinfo | cut -d: -f2)"
    fact memory-kib "$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
    tail -n +2 /proc/swaps | cut -d' ' -f1 | lines swap
    swap_at_boot | sort -u | lines swap-at-boot
    # timedatectl would start a service.
    fact clock-synchronized "$(perl -e "$PROBE" synchronized 2>/dev/null)"
    has perl || fact missing perl
    if has modprobe; then fact modprobe yes; fi
}

# What turns swap on at the next boot: lines of fstab, units, and services of packages. fstab itself is read,
# because systemd keeps the units of lines that are no longer there until it reloads.
swap_at_boot() {
    local unit
    awk '$1 !~ /^#/ && $3 == "swap" && $4 !~ /(^|,)noauto(,|$)/ { print "/etc/fstab" }' /etc/fstab 2>/dev/null
    for unit in zramswap.service zram-config.service dphys-swapfile.service swapspace.service; do
        ! systemctl is-enabled --quiet "$unit" 2>/dev/null || echo "$unit"
    done
    for unit in $(systemctl show --property Wants --property Requires --value swap.target 2>/dev/null); do
        [ "$(systemctl show --property LoadState --value "$unit")" = loaded ] || continue
        [ "$(systemctl show --property SourcePath --value "$unit")" = /etc/fstab ] || echo "$unit"
    done
}

network() {
    hostname -I 2>/dev/null | tr ' ' '\n' | sed '/^$/d' | lines address
    local device mac
    for device in /sys/class/net/*; do
        case ${device##*/} in lo | cni* | flannel* | veth* | docker* | br-* | virbr*) continue ;; esac
        [ -f "$device/address" ] || continue
        # A WireGuard interface has no MAC address.
        mac=$(cat "$device/address")
        fact interface "${device##*/} ${mac:--} $(cat "$device/mtu")"
    done
    fact main-interface "$(main_interface)"
    routes
    name_servers
}

# The file with the name servers of pods, as kubelet-start.sh chooses it; RESOLVER, if the stack file sets
# one. Then the name servers of the machine itself, and the programs that answer on it.
name_servers() {
    local file
    if [ -n "$RESOLVER" ]; then
        file=$(readlink -e "$RESOLVER")
    else
        file=$(bash -c "$KUBELET_START" kubelet-start.sh resolver)
    fi
    fact resolver "$file"
    awk '$1 == "nameserver" { print $2 }' /etc/resolv.conf 2>/dev/null | lines name-server
    ! has ss || ss -Hlnup 'sport = 53' | awk '{
        address = $4; sub(/:[0-9]*$/, "", address); sub(/%.*/, "", address); program = "-"
        if (match($0, /\(\("[^"]*/)) program = substr($0, RSTART + 3, RLENGTH - 3)
        print address, program }' | sort -u | lines name-service
}

# The interface with the node's address; behind NAT, the interface of the default route.
main_interface() {
    local name=""
    if has ip; then
        name=$(ip -o -4 address show to "$ADDRESS" | awk 'NR == 1 {print $2}')
    fi
    [ -n "$name" ] || name=$(awk '$2 == "00000000" {print $1; exit}' /proc/net/route)
    printf '%s' "$name"
}

# The route to each other node: its address, then the interface and the source address of packets to it, `-`
# without a route.
routes() {
    local peer route
    has ip || return 0
    for peer in $PEERS; do
        route=$(ip -o -4 route get "$peer" 2>/dev/null) || route=
        fact route "$peer $(awk '{
            for (i = 1; i < NF; i++) { if ($i == "dev") device = $(i + 1); if ($i == "src") source = $(i + 1) }
        } END { print (device ? device : "-"), (source ? source : "-") }' <<<"$route")"
    done
}

storage() {
    local directory=/var/lib source name
    [ ! -d /var/lib/containerd ] || directory=/var/lib/containerd
    fact disk-free "$directory $(df --output=avail -BM "$directory" | tail -n 1 | tr -dc 0-9)"
    source=$(readlink -f "$(findmnt -n -o SOURCE --target /var/lib | sed 's/\[.*//')" 2>/dev/null)
    name=${source##*/}
    [ -n "$name" ] && [ -e "/sys/class/block/$name" ] || return 0
    # The queue belongs to the disk, which is the directory above a partition.
    local block
    block=$(readlink -f "/sys/class/block/$name")
    [ -d "$block/queue" ] || block=${block%/*}
    fact disk "${block##*/} $(cat "$block/queue/rotational")"
}

# What is mounted at etcd's directory: `none`, `shared` (the file system of /var/lib), `temporary` (gone after
# the next boot) or `own`.
etcd_mount() {
    local directory=/var/lib/etcd unit
    if ! mountpoint -q "$directory"; then
        fact etcd-mount none
    elif [ "$(stat -c %d "$directory")" = "$(stat -c %d "${directory%/*}")" ]; then
        fact etcd-mount shared
    else
        # systemd has a file for each mount that it makes itself, also for those in /etc/fstab.
        unit=$(systemctl show --property FragmentPath --value var-lib-etcd.mount 2>/dev/null)
        fact etcd-mount "$([ -n "$unit" ] && echo own || echo temporary)"
    fi
}

# Whether the directory of volumes is on a disk of the system: `system` (the file system of / or /var/lib) or
# `own`.
volumes_disk() {
    local directory=$VOLUMES device
    until [ -d "$directory/" ]; do directory=${directory%/*}; done
    device=$(stat -c %d "$directory/") || return 0
    case $device in
    "$(stat -c %d /)" | "$(stat -c %d /var/lib)") fact volumes-disk system ;;
    *) fact volumes-disk own ;;
    esac
}

# Modules that are loaded, can be loaded, or are built in, which only symbols show on every kernel.
modules() {
    local name
    for name in overlay br_netfilter vxlan; do
        if [ -d "/sys/module/$name" ] ||
            grep -qs "/$name\.ko" "/lib/modules/$(uname -r)/modules."{dep,builtin} ||
            grep -qsm1 " ${name/overlay/ovl}_" /proc/kallsyms; then
            fact module "$name"
        fi
    done
}

# Programs and files that conflict with Kubernetes.
conflicts() {
    local name
    if [ -d /var/lib/nordmesh ]; then fact prepared yes; fi
    if is_member; then fact member yes; fi
    grep -oE '([0-9]+\.){3}[0-9]+' /etc/nordmesh/members.nft 2>/dev/null | lines lets-in
    dpkg-query -W -f '${db:Status-Status} ${Package}\n' docker.io docker-ce containerd.io cri-o \
        kubelet kubeadm k3s microk8s ufw firewalld 2>/dev/null | sed -n 's/^installed //p' | lines package
    for name in firewalld docker kubelet k3s k3s-agent rke2-server rke2-agent crio etcd \
        snap.microk8s.daemon-kubelite; do
        if systemctl is-active --quiet "$name" 2>/dev/null; then fact service "$name"; fi
    done
    if grep -qs '^ENABLED=yes' /etc/ufw/ufw.conf; then fact service ufw; fi
    for name in /etc/kubernetes/kubelet.conf /etc/kubernetes/manifests/*.yaml /var/lib/etcd/member \
        /var/lib/rancher /etc/cni/net.d/*; do
        if [ -e "$name" ]; then fact found "$name"; fi
    done
    # A running container of containerd or Docker has a directory here: <namespace>/<id>.
    for name in /run/containerd/io.containerd.runtime.v2.task/*/* \
        /run/docker/containerd/daemon/io.containerd.runtime.v2.task/*/*; do
        if [ -d "$name" ]; then fact container "${name##*/}"; fi
    done
    if has ss; then
        ss -Hlntup | awk '{
            port = $5; sub(/.*:/, "", port); program = "-"
            if (match($0, /\(\("[^"]*/)) program = substr($0, RSTART + 3, RLENGTH - 3)
            print $1, port, program }' | sort -u | lines listening
    fi
}

# The packages that would be installed, and the sources that they could come from: whether apt gets the
# index of each. Nothing is asked if none is missing.
packages() {
    local name missing="" work uri file count=0
    has apt-get || return 0
    for name in $PACKAGES; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=" $name"
    done
    [ -n "$missing" ] || return 0
    fact missing-packages "${missing# }"
    work=$(mktemp -d /run/nordmesh-preflight.XXXXXX) || return 0
    while read -r uri _; do
        uri=${uri//\'/}
        case $uri in *InRelease) ;; *) continue ;; esac
        file=$work/$((++count))
        index "$uri" "$file" &
    done < <(apt-get update --print-uris 2>/dev/null)
    wait
    rm -rf "$work"
}

# index URI FILE: whether a package source answers.
index() {
    local source=${1%/InRelease} name
    for name in InRelease Release; do
        if timeout 8 /usr/lib/apt/apt-helper -o Acquire::Retries=0 download-file "$source/$name" "$2" \
            >/dev/null 2>&1 </dev/null; then
            fact source "yes ${source%/dists/*}"
            return
        fi
    done
    fact source "no ${source%/dists/*}"
}

resolves() { if timeout 5 getent ahostsv4 "$1" >/dev/null 2>&1; then fact resolves "$1"; fi; }
reaches() {
    local proxy
    proxy=$(proxy_for "$1" "$2")
    # shellcheck disable=SC2016 # expanded by the inner shell
    if [ -n "$proxy" ]; then
        PROXY_LOGIN=$(proxy_login) timeout 5 bash -c 'exec 3<>"/dev/tcp/$2/$3" &&
            login="${PROXY_LOGIN:+Proxy-Authorization: Basic $PROXY_LOGIN\r\n}" &&
            printf "CONNECT $0:$1 HTTP/1.1\r\nHost: $0:$1\r\n$login\r\n" >&3 &&
            read -r _ status _ <&3 && [ "$status" = 200 ]' "$1" "$2" "${proxy%:*}" "${proxy##*:}" 2>/dev/null
    else
        timeout 5 bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$1" "$2" 2>/dev/null
    fi && fact reaches "$1:$2"
}

# proxy_for HOST PORT: the proxy of this machine for HTTPS to a host, as `host:port`; nothing without one.
proxy_for() {
    local proxy=${https_proxy:-${HTTPS_PROXY:-}} except
    [ -n "$proxy" ] && [ "$2" = 443 ] || return 0
    for except in $(tr ',' ' ' <<<"${no_proxy:-${NO_PROXY:-}}"); do
        case .$1 in *".${except#.}") return 0 ;; esac
        [ "$except" != '*' ] || return 0
    done
    proxy=${proxy#*://}
    proxy=${proxy%%/*}
    proxy=${proxy##*@}
    case $proxy in *:*) ;; *) proxy+=:1080 ;; esac
    printf '%s' "$proxy"
}

# proxy_login: the login of the proxy's URL in the form of HTTP; nothing without one.
proxy_login() {
    local proxy=${https_proxy:-${HTTPS_PROXY:-}} login
    proxy=${proxy#*://}
    proxy=${proxy%%/*}
    case $proxy in *@*) ;; *) return 0 ;; esac
    login=${proxy%@*}
    login=${login//\\/\\\\}
    printf '%b' "${login//%/\\x}" | base64 -w 0
}

outside() {
    local name host port
    for name in $NAMES; do resolves "$name" & done
    for name in $ENDPOINTS; do
        host=${name%:*} port=${name##*:}
        reaches "$host" "$port" &
    done
    wait
}

system
network
storage
modules
packages
[ "$ETCD" != true ] || etcd_mount
[ -z "$VOLUMES" ] || volumes_disk
conflicts=$(conflicts)
[ -z "$conflicts" ] || printf '%s\n' "$conflicts"
outside
# A running etcd is not disturbed.
if [ "$ETCD" = true ] && ! grep -q '^member' <<<"$conflicts"; then
    directory=/var/lib
    [ ! -d /var/lib/etcd ] || directory=/var/lib/etcd
    fact sync "$(perl -e "$PROBE" sync "$directory" 2>&1 | tail -n 1)"
fi
left=$((WINDOW - (SECONDS - started)))
[ "$left" -le 0 ] || sleep "$left"
fact cpu-after "$(cpu_time)"
fact end yes
