#!/usr/bin/env bash
# The container runtime of the lock, for the scripts that say that they use it; lib.sh is before it,
# and fetch.sh and files.sh where it is installed.

readonly CONTAINERD=/usr/local/bin/containerd
readonly CONTAINERD_RESTART=/var/lib/nordmesh/containerd.restart

# runs_installed: whether the containerd that runs is the one that is installed. Of one that was
# replaced the kernel says that it was deleted.
runs_installed() {
    local pid
    pid=$(systemctl show containerd --property MainPID --value)
    [ "${pid:-0}" != 0 ] && [ "$(readlink "/proc/$pid/exe")" = "$CONTAINERD" ]
}

# container_runtime: containerd, runc and the CNI plugins, and the service. The unit hides that of a
# package with the same name, whose containers go on: their shims outlive containerd.
container_runtime() {
    mkdir -p /var/lib/nordmesh
    fetch_all "$RUNTIME"
    write_files_read_at_start "$CONTAINERD_RESTART" containerd
    write_files registries
    if [ -e "$CONTAINERD_RESTART" ] || ! runs_installed; then
        systemctl daemon-reload
        systemctl enable --quiet containerd
        step "start containerd"
        logged containerd systemctl restart containerd
        rm -f "$CONTAINERD_RESTART"
    fi
    until_true 30 "containerd" ctr version
}

# remove_runtime: takes it away again, with no container left; a package's own unit is seen again.
remove_runtime() {
    local name
    [ -e /etc/systemd/system/containerd.service ] || return 0
    systemctl disable --quiet --now containerd 2>/dev/null || true
    rm -f /etc/systemd/system/containerd.service
    systemctl daemon-reload
    for name in containerd runc cni-plugins; do
        [ -f "/var/lib/nordmesh/$name.files" ] || continue
        cut -c 67- "/var/lib/nordmesh/$name.files" | xargs -d '\n' rm -f
        rm -f "/var/lib/nordmesh/$name.files" "/var/lib/nordmesh/$name.sha256"
    done
}
