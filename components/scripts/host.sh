#!/usr/bin/env bash
# What a node is beneath Kubernetes: files of the firewall, sshd, time, logs and a database, and held
# packages; for the scripts that say that they use it, after apt.sh, identity.sh, firewall.sh and, where
# it is installed, files.sh. Reads: FILES TIME_SYNC SSH_FROM ENDPOINT_ADDRESS HOLD_PACKAGES BUFFER_POOL. A line of sshd's file may have several values, separated
# by |, from the strictest to ours.

# What writes and reads the rules that kube-proxy, kubelet and the CNI share; kube-proxy has a version
# of its own in its image, which has misread a newer one's before (kubernetes/kubernetes#112477).
readonly NETWORK_PACKAGES="iptables ebtables nftables conntrack"
readonly HOST_STATE=/var/lib/nordmesh
# The paths that this wrote, and those whose services have not yet taken the change up.
readonly HOST_FILES=$HOST_STATE/host-files
readonly HOST_CHANGED=$HOST_STATE/host-changed
readonly HELD=$HOST_STATE/held
# The readers of the files that this writes; the others are the container runtime's and kubelet's.
readonly HOST_READERS="firewall sshd timesyncd journald logrotate database"
readonly SSHD_FILE=/etc/ssh/sshd_config.d/00-nordmesh.conf
readonly OTHER_TIME_SERVICES="chrony chronyd ntp ntpd ntpsec openntpd"

# has_changed BEGINNING...: whether a file with one of these beginnings was written or removed.
has_changed() {
    local beginning
    for beginning in "$@"; do
        ! grep -qs "^$beginning" "$HOST_CHANGED" || return 0
    done
    return 1
}

# buffer_pool MEMORY_KIB: three quarters of a machine's memory, in whole GiB where it is 3 or more of
# them: the guides' 12G of 16 GB, of which the kernel has a little less.
buffer_pool() {
    local mebibytes=$(($1 * 3 / 4096)) unit=128
    [ "$mebibytes" -lt 3072 ] || unit=1024
    echo "$(((mebibytes + unit / 2) / unit * unit))M"
}

# host_text PATH: the text of a file; what only the node knows is filled in.
host_text() {
    local text pool=$BUFFER_POOL
    text=$(file_text "$1") || return
    if [[ $text = *@BUFFER_POOL@* ]]; then
        [ -n "$pool" ] || pool=$(buffer_pool "$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)")
        text=${text//@BUFFER_POOL@/$pool}
    fi
    printf '%s' "$text"
}

# remove_host_file PATH: and its directory, if that is empty then and not of the system.
remove_host_file() {
    echo "$1" >>"$HOST_CHANGED"
    rm -f "$1"
    rmdir /etc/nordmesh /usr/local/lib/nordmesh 2>/dev/null || true
}

# written_files: the paths that an earlier run wrote, or was about to write when it was cut off.
written_files() {
    local list
    for list in "$HOST_FILES" "$HOST_CHANGED"; do
        [ ! -e "$list" ] || cat "$list"
    done
}

# host_files: writes the files of all settings, and removes those that are in none any more. A file
# is noted before it is written, so that a run that was cut off is caught up with.
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
        [ "$path" != "$SSHD_FILE" ] || text=$(never_weaker "$text") || exit
        if [ ! -f "$path" ] || [ "$(cat "$path"; echo x)" != "$text"$'\nx' ]; then
            [ "$path" != "$SSHD_FILE" ] || sshd_takes "$text"
            echo "$path" >>"$HOST_CHANGED"
        fi
        write_file "$path" "$mode" "$text" || true
    done <<<"$paths"
    while read -r path; do
        [ -z "$path" ] || grep -qxF "$path" <<<"$wanted" || remove_host_file "$path"
    done <<<"$written"
    write_file "$HOST_FILES" 644 "${wanted%$'\n'}" || true
}

# own_sshd: sshd's settings in effect without our file, which is empty in a mount namespace of its own.
own_sshd() {
    mkdir -p /run/sshd
    if [ -e "$SSHD_FILE" ]; then
        unshare --mount sh -c "mount --bind /dev/null $SSHD_FILE && exec sshd -T"
    else
        sshd -T
    fi
}

# never_weaker TEXT: sshd's file with one value of each setting: of several the machine's own, if that
# is one of them, else ours.
never_weaker() {
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

# sshd_takes TEXT: refuses a file that sshd would not start with. sshd takes the first of two values.
sshd_takes() {
    local all=$RUN_DIR/sshd_config
    mkdir -p /run/sshd
    (umask 077 && { printf '%s\n' "$1"; cat /etc/ssh/sshd_config; } >"$all")
    logged sshd-test sshd -t -f "$all"
    rm -f "$all"
}

ssh_server() {
    local unit=ssh effective
    has_changed "$SSHD_FILE" || return 0
    systemctl cat ssh.service >/dev/null 2>&1 || unit=sshd
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

# other_time_service: the service that sets the clock already, or what does instead; false if nothing.
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
        ! has_files timesyncd || warn "the clock is set by $other, and not from nordmesh:host.timeServers"
        return 0
    fi
    systemctl unmask --quiet systemd-timesyncd 2>/dev/null || true
    systemctl enable --quiet systemd-timesyncd 2>/dev/null
    if has_changed /etc/systemd/timesyncd.conf.d/ || ! systemctl is-active --quiet systemd-timesyncd; then
        logged timesyncd systemctl restart systemd-timesyncd 9>&-
    fi
}

journal() {
    ! has_changed /etc/systemd/journald.conf.d/nordmesh || logged journald systemctl restart systemd-journald 9>&-
}

# A database is restarted by its owner: that takes the site down, and this does not know when it may.
database() {
    ! has_changed /etc/mysql/ ||
        warn "the database's settings have changed; a running one takes them at its next restart"
}

# hold: packages that pods' network stands on keep their version; only what this has held is ever
# released.
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

# host_packages: the packages that the host's settings need besides.
host_packages() {
    ! has_files firewall || echo nftables
    [ "$TIME_SYNC" != true ] || other_time_service >/dev/null || echo systemd-timesyncd
}

host() {
    mkdir -p "$HOST_STATE"
    if has_files firewall; then firewall_allows_us; else firewall_off; fi
    host_files
    if has_files firewall; then firewall_on; else systemctl daemon-reload; fi
    ssh_server
    time_service
    journal
    database
    if [ "$HOLD_PACKAGES" = true ]; then hold; else release; fi
    rm -f "$HOST_CHANGED"
}

# host_reset: what is of no use on a machine without Kubernetes goes; sshd, time and journal stay as
# they are, for the machine is no safer without.
host_reset() {
    local path written
    written=$(written_files)
    firewall_off
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
