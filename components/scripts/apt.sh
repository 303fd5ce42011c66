#!/usr/bin/env bash
# Installs Debian packages; for scripts that use it after lib.sh.

# How long to wait for another process that installs packages.
readonly APT_SECONDS=${APT_SECONDS:-600}

# apt_reason LOG: the first error in a log.
apt_reason() { grep -m 1 -E '^(E: |dpkg: error)' "$1" || tail -n 1 "$1"; }

# apt_try NAME COMMAND...: runs apt or dpkg with its output in a log; false if it fails. Waits while
# another process holds a lock. DPkg::Lock::Timeout of apt covers neither the lock of the package lists
# nor the one that apt-mark needs.
apt_try() {
    local log="$LOG_DIR/$1.log" deadline=$((SECONDS + APT_SECONDS)) waits=false
    shift
    (umask 077 && : >"$log")
    until DEBIAN_FRONTEND=noninteractive with_proxy "$@" >"$log" 2>&1 </dev/null 9>&-; do
        grep -qE 'Could not get lock|is another process using it|locked by another process' "$log" || return 1
        if [ "$SECONDS" -ge "$deadline" ]; then
            cat "$log" >&2
            fail package-manager-locked "another process has locked the package manager for $APT_SECONDS s" \
                "only one process can install packages at a time; the process that holds the lock is shown above" \
                "check that process on the node, and run \`pulumi up\` again when it has ended"
        fi
        $waits || step "waiting up to $APT_SECONDS s for another process that installs packages: $(apt_reason "$log")"
        waits=true
        sleep 2
    done
}

# apt_do NAME COMMAND...: like apt_try, but a failure ends the script.
apt_do() {
    local log="$LOG_DIR/$1.log" reason
    apt_try "$@" && return 0
    reason=$(apt_reason "$log")
    tail -n 25 "$log" >&2
    fail apt-failed "apt or dpkg failed: $reason" \
        "the lines above are the end of $log" \
        "fix the errors above, then run \`pulumi up\` again: it continues from here"
}

# is_installed_package NAME: whether a package is installed; ends the script if dpkg cannot tell.
is_installed_package() {
    local status code=0
    status=$(dpkg-query -W -f='${db:Status-Status}\n' "$1" 2>/dev/null) || code=$?
    [ "$code" -le 1 ] || fail dpkg-unreadable "dpkg cannot tell which packages are installed" \
        "dpkg-query exited with status $code" \
        "run \`dpkg --audit\` on the node and fix the packages it names, then run \`pulumi up\` again"
    grep -qx installed <<<"$status"
}

# wait_for_first_boot: cloud-init installs packages, too, and gives up if a lock is held.
wait_for_first_boot() {
    local status code=0
    command -v cloud-init >/dev/null || return 0
    status=$(cloud-init status 2>/dev/null) || true
    [[ $status = *running* ]] || return 0
    step "waiting up to $APT_SECONDS s for cloud-init to finish the first boot"
    timeout "$APT_SECONDS" cloud-init status --wait >/dev/null 2>&1 </dev/null 9>&- || code=$?
    [ "$code" != 124 ] || warn "cloud-init has not finished the first boot within $APT_SECONDS s; continuing without it"
}

# install_packages NAME...: installs the packages that are missing, after completing those that a killed
# dpkg left. If a package source does not answer, warns and uses the others.
install_packages() {
    local name reason missing=()
    for name in "$@"; do
        is_installed_package "$name" || missing+=("$name")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    wait_for_first_boot
    step "install ${missing[*]}"
    # This cannot complete a package that was unpacked before its dependencies; --fix-broken can.
    apt_try dpkg-configure dpkg --force-confdef --force-confold --configure -a || true
    if ! apt_try apt-update apt-get update; then
        reason=$(apt_reason "$LOG_DIR/apt-update.log")
        warn "\`apt-get update\` failed; packages come from the lists on the node: $reason"
    fi
    apt_try apt-fix apt-get install -y --no-install-recommends --no-remove --fix-broken || true
    apt_do apt-install apt-get install -y --no-install-recommends "${missing[@]}"
}
