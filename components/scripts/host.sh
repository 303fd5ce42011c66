#!/usr/bin/env bash
# Sets up the host below Kubernetes: files of the firewall, the load balancer of the API servers, sshd,
# time, logs and a database, and held packages; for scripts that use it after apt.sh, identity.sh,
# endpoint.sh, firewall.sh and, where it writes files, files.sh. Reads: FILES TIME_SYNC SSH_FROM
# ENDPOINT_ADDRESS HOLD_PACKAGES BUFFER_POOL. A line of sshd's file may have several values, separated by |,
# from the strictest to ours.

# The programs that write and read the rules that kube-proxy, kubelet and the CNI share. kube-proxy's
# image has its own version, which has misread a newer version's rules before
# (kubernetes/kubernetes#112477).
readonly NETWORK_PACKAGES="iptables ebtables nftables conntrack"
readonly HOST_STATE=/var/lib/nordmesh
# The paths that this script wrote, and those that changed since their services last read them.
readonly HOST_FILES=$HOST_STATE/host-files
readonly HOST_CHANGED=$HOST_STATE/host-changed
readonly HELD=$HOST_STATE/held
# The readers of the files that this script writes; other files are the container runtime's and kubelet's.
readonly HOST_READERS="endpoint firewall members sshd timesyncd journald logrotate database certificates"
readonly SSHD_FILE=/etc/ssh/sshd_config.d/00-nordmesh.conf
readonly CERTIFICATES_TIMER=/etc/systemd/system/nordmesh-certificates.timer
readonly OTHER_TIME_SERVICES="chrony chronyd ntp ntpd ntpsec openntpd"

# has_changed PREFIX...: whether a file whose path has one of these prefixes was written or removed.
has_changed() {
    local prefix
    for prefix in "$@"; do
        ! grep -qs "^$prefix" "$HOST_CHANGED" || return 0
    done
    return 1
}

# buffer_pool MEMORY_KIB: three quarters of a machine's memory; in whole GiB from 3 GiB on, so that 16 GB,
# of which the kernel reports a little less, give 12G.
buffer_pool() {
    local mebibytes=$(($1 * 3 / 4096)) unit=128
    [ "$mebibytes" -lt 3072 ] || unit=1024
    echo "$(((mebibytes + unit / 2) / unit * unit))M"
}

# host_text PATH: the text of a file, with the values that only the node knows.
host_text() {
    local text pool=$BUFFER_POOL
    text=$(file_text "$1") || return
    if [[ $text = *@BUFFER_POOL@* ]]; then
        [ -n "$pool" ] || pool=$(buffer_pool "$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)")
        text=${text//@BUFFER_POOL@/$pool}
    fi
    printf '%s' "$text"
}

# remove_host_file PATH: removes a file, and the directories of nordmesh if they are empty then.
remove_host_file() {
    echo "$1" >>"$HOST_CHANGED"
    rm -f "$1"
    rmdir /etc/nordmesh /usr/local/lib/nordmesh 2>/dev/null || true
}

# written_files: the paths that an earlier run wrote, or was about to write when it was killed.
written_files() {
    local list
    for list in "$HOST_FILES" "$HOST_CHANGED"; do
        [ ! -e "$list" ] || cat "$list"
    done
}

# host_files: writes the files of all settings, and removes files of earlier settings. Each path is noted
# before its file is written, so that the next run continues a killed one.
host_files() {
    local path paths text mode written wanted=""
    written=$(written_files)
    # shellcheck disable=SC2086 # a list of names
    paths=$(files_for $HOST_READERS)
    while read -r path; do
        [ -n "$path" ] || continue
        wanted+="$path"$'\n'
        text=$(host_text "$path")
        mode=$(file_mode "$path")
        [ "$path" != "$SSHD_FILE" ] || text=$(stricter_sshd "$text") || exit 1
        if [ ! -f "$path" ] || [ "$(cat "$path"; echo x)" != "$text"$'\nx' ]; then
            [ "$path" != "$SSHD_FILE" ] || test_sshd_file "$text"
            echo "$path" >>"$HOST_CHANGED"
        fi
        write_file "$path" "$mode" "$text" || true
    done <<<"$paths"
    while read -r path; do
        [ -z "$path" ] || grep -qxF "$path" <<<"$wanted" || remove_host_file "$path"
    done <<<"$written"
    write_file "$HOST_FILES" 644 "${wanted%$'\n'}" || true
}

# own_sshd: sshd's settings in effect without our file, which is empty in a separate mount namespace.
own_sshd() {
    mkdir -p /run/sshd
    if [ -e "$SSHD_FILE" ]; then
        unshare --mount sh -c "mount --bind /dev/null $SSHD_FILE && exec sshd -T"
    else
        sshd -T
    fi
}

# stricter_sshd TEXT: sshd's file with one value for each setting. Of several values it takes the
# machine's own if that is one of them, and ours otherwise.
stricter_sshd() {
    local own line keyword values value
    own=$(own_sshd 2>"$LOG_DIR/sshd-own.log") || {
        cat "$LOG_DIR/sshd-own.log" >&2
        fail sshd-own-settings-invalid "sshd does not accept the machine's own settings" \
            "they could be stricter than those of nordmesh; nothing was changed" \
            "fix the settings in /etc/ssh that are named above, then run \`pulumi up\` again"
    }
    while read -r line; do
        IFS=' ' read -r keyword values <<<"$line"
        if [[ $values = *"|"* ]]; then
            value=$(awk -v keyword="${keyword,,}" '$1 == keyword { print $2 }' <<<"$own")
            [[ "|$values|" = *"|$value|"* ]] || value=${values##*|}
            line="$keyword $value"
        fi
        printf '%s\n' "$line"
    done <<<"$1"
}

# test_sshd_file TEXT: ends the script if sshd would not start with this file. It goes before the main
# file, because sshd uses the first of two values.
test_sshd_file() {
    local all=$RUN_DIR/sshd_config
    mkdir -p /run/sshd
    (umask 077 && { printf '%s\n' "$1"; cat /etc/ssh/sshd_config; } >"$all")
    logged sshd-test sshd -t -f "$all"
    rm -f "$all"
}

ssh_server() {
    local unit=ssh effective state
    has_changed "$SSHD_FILE" || return 0
    state=$(systemctl show ssh.service --property LoadState --value)
    [ "$state" != not-found ] || unit=sshd
    logged sshd-test sshd -t
    step "reload sshd"
    logged sshd-reload systemctl reload-or-try-restart "$unit"
    [ -f "$SSHD_FILE" ] || return 0
    effective=$(sshd -T) || fail sshd-settings-unknown "sshd does not show the settings in effect" \
        "it could still accept passwords" \
        "run \`sshd -T\` on the node and fix the errors it shows, then run \`pulumi up\` again"
    grep -qx 'passwordauthentication no' <<<"$effective" ||
        fail sshd-accepts-passwords "sshd still accepts passwords" \
            "its sshd_config does not include $SSHD_FILE first" \
            "put \`Include /etc/ssh/sshd_config.d/*.conf\` at the top of /etc/ssh/sshd_config, or set nordmesh:host.ssh.hardened to false"
}

# other_time_service: what already sets the clock; false if nothing does.
other_time_service() {
    local name
    if systemd-detect-virt --quiet --container; then
        echo "the machine that the container is on"
        return 0
    fi
    for name in $OTHER_TIME_SERVICES; do
        if systemctl is-active --quiet "$name" 2>/dev/null; then
            echo "$name"
            return 0
        fi
    done
    return 1
}

time_service() {
    local other
    [ "$TIME_SYNC" = true ] || return 0
    if other=$(other_time_service); then
        ! has_files timesyncd || warn "$other sets the clock; nordmesh:host.timeServers has no effect"
        return 0
    fi
    systemctl unmask --quiet systemd-timesyncd 2>/dev/null || true
    systemctl enable --quiet systemd-timesyncd 2>/dev/null
    if has_changed /etc/systemd/timesyncd.conf.d/ || ! is_active systemd-timesyncd; then
        logged timesyncd systemctl restart systemd-timesyncd 9>&-
    fi
}

journal() {
    ! has_changed /etc/systemd/journald.conf.d/nordmesh || logged journald systemctl restart systemd-journald 9>&-
}

# The owner restarts the database: a restart takes the site down, and only the owner knows when it may.
database() {
    ! has_changed /etc/mysql/ ||
        warn "the database's settings have changed; a running database reads them at its next restart"
}

# certificates: starts the timer that renews those of a control plane.
certificates() {
    has_files certificates || return 0
    if has_changed "$CERTIFICATES_TIMER" || ! is_active "${CERTIFICATES_TIMER##*/}"; then
        systemctl daemon-reload
        logged certificates-timer systemctl restart "${CERTIFICATES_TIMER##*/}" 9>&-
    fi
    systemctl enable --quiet "${CERTIFICATES_TIMER##*/}" 2>/dev/null
}

# hold: keeps the version of the packages that the pods' network depends on. Only packages that this
# function held are ever released.
hold() {
    local name held
    held=$(apt-mark showhold)
    for name in $NETWORK_PACKAGES; do
        is_installed_package "$name" || continue
        ! grep -qx "$name" <<<"$held" || continue
        echo "$name" >>"$HELD"
        apt_do apt-hold apt-mark hold "$name"
    done
}

release() {
    local name
    [ -f "$HELD" ] || return 0
    while read -r name; do
        # Its owner may have removed it since.
        ! is_installed_package "$name" || apt_do apt-release apt-mark unhold "$name"
    done < <(sort -u "$HELD")
    rm -f "$HELD"
}

# host_packages: the other packages that the host's settings need.
host_packages() {
    ! has_files firewall || echo nftables
    ! has_files endpoint || echo haproxy
    [ "$TIME_SYNC" != true ] || other_time_service >/dev/null || echo systemd-timesyncd
}

host() {
    mkdir -p "$HOST_STATE"
    has_files members || members_off
    if has_files firewall; then require_ssh_access; else firewall_off; fi
    host_files
    systemctl daemon-reload
    ! has_files firewall || firewall_on
    ! has_files endpoint || endpoint_on
    ! has_files members || members_on
    ssh_server
    time_service
    journal
    database
    certificates
    if [ "$HOLD_PACKAGES" = true ]; then hold; else release; fi
    rm -f "$HOST_CHANGED"
}

# host_reset: removes what a machine without Kubernetes does not need. The settings of sshd, time and
# journal stay: without them the machine would be less secure.
host_reset() {
    local path written
    written=$(written_files)
    members_off
    firewall_off
    [ ! -e "$CERTIFICATES_TIMER" ] || stop_for_good "${CERTIFICATES_TIMER##*/}"
    endpoint_off
    while read -r path; do
        case $path in
        /etc/nordmesh/* | /etc/systemd/system/nordmesh-* | /usr/local/lib/nordmesh/* | /etc/mysql/*)
            remove_host_file "$path"
            ;;
        esac
    done <<<"$written"
    systemctl daemon-reload
    release
}
