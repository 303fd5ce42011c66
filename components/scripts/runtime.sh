#!/usr/bin/env bash
# The container runtime of the lock, for the scripts that say that they use it; lib.sh is before it,
# and fetch.sh where it is installed.

readonly CONTAINERD=/usr/local/bin/containerd
readonly CONTAINERD_RESTART=/var/lib/nordmesh/containerd.restart

# read_at_start MARK PATH CONTENT: writes what a service reads only when it starts. The mark is there
# from before the change until the service has been started with it, also where the run is killed.
read_at_start() {
    [ "$(cat "$2" 2>/dev/null)" = "$3" ] || : >"$1"
    write_file "$2" 644 "$3" || true
}

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
    local host content
    mkdir -p /var/lib/nordmesh
    fetch_all "$RUNTIME"
    read_at_start "$CONTAINERD_RESTART" /etc/systemd/system/containerd.service "$CONTAINERD_UNIT"
    read_at_start "$CONTAINERD_RESTART" /etc/containerd/config.toml "$CONTAINERD_CONFIG"
    # Each line: registry host, a tab, its hosts.toml in base64. Read at each pull.
    while IFS=$'\t' read -r host content; do
        [ -n "$host" ] || continue
        content=$(base64 -d <<<"$content")
        write_file "/etc/containerd/certs.d/$host/hosts.toml" 644 "$content" || true
    done <<<"$REGISTRY_HOSTS"
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
