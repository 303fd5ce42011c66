#!/usr/bin/env bash
# Installs and removes the pinned container runtime; for scripts that use it after lib.sh and, where it is
# installed, fetch.sh and files.sh.

readonly CONTAINERD=/usr/local/bin/containerd
readonly CONTAINERD_RESTART=/var/lib/nordmesh/containerd.restart

# runs_installed: whether the running containerd is the installed one. For a program that was replaced,
# the kernel shows a deleted file.
runs_installed() {
    local pid
    pid=$(systemctl show containerd --property MainPID --value)
    [ "${pid:-0}" != 0 ] && [ "$(readlink "/proc/$pid/exe")" = "$CONTAINERD" ]
}

# container_runtime: installs containerd, runc and the CNI plugins, and starts the service. Its unit hides
# the one of a package with the same name. Containers keep running: their shims outlive containerd.
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

# remove_runtime: removes the runtime once no container is left. The unit goes last, so that the next run
# continues a killed one; the unit of a package works again after the next `systemctl daemon-reload`.
remove_runtime() {
    local name
    [ -e /etc/systemd/system/containerd.service ] || return 0
    stop_for_good containerd
    for name in containerd runc cni-plugins; do
        [ -f "/var/lib/nordmesh/$name.files" ] || continue
        cut -c 67- "/var/lib/nordmesh/$name.files" | xargs -d '\n' rm -f
        rm -f "/var/lib/nordmesh/$name.files" "/var/lib/nordmesh/$name.sha256"
    done
    rm -f /etc/systemd/system/containerd.service
}
