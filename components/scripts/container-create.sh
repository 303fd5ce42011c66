#!/usr/bin/env bash
# Creates a machine of the lab: a systemd-nspawn container with its own systemd, sshd and containerd on a
# bridge of this host. Runs on this host, as root.
# Uses: container.sh
#
# In:  NAME BRIDGE ADDRESS PREFIX GATEWAY, and the files SSHD_CONF BOOT_SCRIPT BOOT_UNIT (environment)
# Out: one line of JSON, {"hostKey": ..., "privateKey": ...}; progress on stderr.
#
# Safe to run again at any time, also after a kill at any line: it keeps a machine that runs with these
# settings, starts a stopped machine, restarts a machine whose address changed, and creates a partial machine
# again. The keys of a machine never change. It does not create the bridge or the base root (`make up`
# does), and never replaces the root of an existing machine.
set -euo pipefail

boot_timeout=60 # seconds from start to sshd's banner; 2 to 4 are usual
stop_timeout=30 # seconds for an orderly power-off before a restart

require_settings() {
    local setting
    for setting in NAME BRIDGE ADDRESS PREFIX GATEWAY; do
        [[ -n ${!setting:-} ]] || fail setting-missing "$setting is not set" \
            "the script reads it from its environment" \
            "set it; \`pulumi up\` does this itself"
    done
    set_machine
    [[ $ADDRESS =~ ^[0-9.]+$ && $GATEWAY =~ ^[0-9.]+$ && $PREFIX =~ ^[0-9]+$ ]] ||
        fail addresses-invalid "ADDRESS, GATEWAY and PREFIX are '$ADDRESS', '$GATEWAY' and '$PREFIX', not IPv4" \
            "the lab's network is IPv4 only" \
            "use values such as 10.90.0.11, 10.90.0.1 and 24"
}

require_host() {
    local addresses fix="run 'make up', which prepares this host"
    [[ $(id -u) == 0 ]] || fail lab-not-root "container machines need root" \
        "only root can start systemd-nspawn" \
        "run it as root"
    command -v systemd-nspawn >/dev/null || fail no-nspawn "systemd-nspawn is not installed" \
        "it runs the machine" \
        "$fix"
    [[ -d /sys/class/net/$BRIDGE/bridge ]] || fail no-lab-bridge "there is no bridge $BRIDGE" \
        "the machine is connected to it" \
        "$fix"
    addresses=$(ip -4 -o address show dev "$BRIDGE")
    [[ $addresses == *" $GATEWAY/"* ]] ||
        fail no-gateway-address "bridge $BRIDGE does not have the gateway address $GATEWAY" \
            "the machine would reach neither this host nor the internet" \
            "$fix"
    [[ -d $ROOT || -x $base/usr/bin/systemctl ]] || fail no-base-root "there is no base root at $base" \
        "the machine's root is a copy of it" \
        "$fix"
}

sshd_answers() {
    local banner
    # shellcheck disable=SC2016 # expanded by the inner shell
    banner=$(timeout 1 bash -c 'exec 3<>"/dev/tcp/$0/22" && IFS= read -r line <&3 && echo "$line"' \
        "$ADDRESS" 2>/dev/null) && [[ $banner == SSH-2.0-* ]]
}

# Two runs at the same time (for two machines) must use one key.
make_client_key() {
    (
        flock -w "$LOCK_SECONDS" 8 || fail lab-key-locked "another process holds $LAB/lock" \
            "two processes must not create two keys for one lab" \
            "wait for it, or end it"
        if [[ ! -s $LAB/id_ed25519.pub ]]; then
            rm -f "$LAB"/id_ed25519*
            ssh-keygen -q -t ed25519 -N '' -C "nordmesh lab $BRIDGE" -f "$LAB/id_ed25519"
        fi
    ) 8>"$LAB/lock"
}

make_host_key() {
    [[ -s $MACHINE/host_key.pub ]] && return
    rm -f "$MACHINE"/host_key*
    ssh-keygen -q -t ed25519 -N '' -C '' -f "$MACHINE/host_key"
}

make_root() {
    rm -rf --one-file-system "$MACHINE"/root.new "$MACHINE"/root.gone.* # left by killed runs
    [[ -d $ROOT ]] && return
    say "copying the base root"
    cp --archive --reflink=auto "$base/." "$MACHINE/root.new"
    tr -d - </proc/sys/kernel/random/uuid >"$MACHINE/root.new/etc/machine-id"
    chmod 0444 "$MACHINE/root.new/etc/machine-id"
    ln -sfn /etc/machine-id "$MACHINE/root.new/var/lib/dbus/machine-id"
    sync -f "$MACHINE/root.new/etc/machine-id" # a rename must not outlive the data after a crash
    mv --no-target-directory "$MACHINE/root.new" "$ROOT"
}

# Writes stdin to a file of the root, with a mode, through a rename.
install_file() {
    local path=$ROOT$1 mode=$2
    mkdir -p "$(dirname "$path")"
    rm -f "$path.new"
    cat >"$path.new"
    chmod "$mode" "$path.new"
    mv --no-target-directory "$path.new" "$path"
}

configure_root() {
    (
        umask 022
        install_file /etc/hostname 0644 <<<"$NAME"
        configure_hosts
        # Nothing listens there: a lookup outside the cluster fails at once instead of hanging.
        rm -f "$ROOT/etc/resolv.conf"
        install_file /etc/resolv.conf 0644 <<<"nameserver $GATEWAY"
        configure_sshd
        configure_boot
    )
}

# Other scripts add lines to this file (the API endpoint), so only our own line is replaced.
configure_hosts() {
    local mark='# this machine'
    {
        if [[ -f $ROOT/etc/hosts ]]; then grep -vF "$mark" "$ROOT/etc/hosts" || true; fi
        grep -qs localhost "$ROOT/etc/hosts" || echo '127.0.0.1 localhost'
        echo "$ADDRESS $NAME $mark"
    } | install_file /etc/hosts 0644
}

configure_sshd() {
    rm -f "$ROOT"/etc/ssh/ssh_host_* # the base root's keys are the same on all machines
    install_file /etc/ssh/ssh_host_ed25519_key 0600 <"$MACHINE/host_key"
    install_file /etc/ssh/ssh_host_ed25519_key.pub 0644 <"$MACHINE/host_key.pub"
    install_file /root/.ssh/authorized_keys 0600 <"$LAB/id_ed25519.pub"
    chmod 0700 "$ROOT/root/.ssh"
    install_file /etc/ssh/sshd_config.d/nordmesh.conf 0644 <<<"$SSHD_CONF"
}

configure_boot() {
    install_file /usr/local/sbin/nordmesh-boot 0755 <<<"$BOOT_SCRIPT"
    install_file /etc/systemd/system/nordmesh-boot.service 0644 <<<"$BOOT_UNIT"
    mkdir -p "$ROOT/etc/systemd/system/sysinit.target.wants"
    ln -sfn ../nordmesh-boot.service "$ROOT/etc/systemd/system/sysinit.target.wants/"
}

settings() { printf '%s %s/%s via %s\n' "$BRIDGE" "$ADDRESS" "$PREFIX" "$GATEWAY"; }

stop() {
    local pid=$1 waited=0
    kill -TERM "$pid" # nspawn then asks the machine's systemd for an orderly halt
    while [[ -e /proc/$pid ]]; do
        ((waited++ < stop_timeout * 5)) || { kill -KILL "$pid" 2>/dev/null || true; }
        ((waited < (stop_timeout + 5) * 5)) || fail container-does-not-stop "process $pid does not end" \
            "the machine must stop before it starts with its new settings" \
            "end the process yourself, then run this again"
        sleep 0.2
    done
}

# Each machine gets its own cgroups: two kubelets below one root would delete each other's pods.
enter_cgroups() {
    local hierarchy own file
    for hierarchy in /sys/fs/cgroup /sys/fs/cgroup/*; do
        [[ -f $hierarchy/cgroup.procs && ! -L $hierarchy ]] || continue
        [[ $hierarchy != /sys/fs/cgroup || -f $hierarchy/cgroup.controllers ]] || continue
        [[ -f /sys/fs/cgroup/cgroup.controllers && $hierarchy != /sys/fs/cgroup ]] && continue
        own=$hierarchy/$UNIT
        mkdir -p "$own"
        for file in cpuset.cpus cpuset.mems; do
            # An empty cpuset (cgroup v1) accepts no process.
            if [[ -f $own/$file && -z $(cat "$own/$file") ]]; then cat "$hierarchy/$file" >"$own/$file"; fi
        done
        echo "$BASHPID" >"$own/cgroup.procs"
    done
}

start() {
    local parent=(setsid nohup)
    if [[ -d /run/systemd/system ]]; then
        systemctl reset-failed "$UNIT.service" 2>/dev/null || true
        parent=(systemd-run --quiet --collect "--unit=$UNIT" --property=Delegate=yes
            --property=KillMode=mixed --property=TasksMax=infinity
            "--property=StandardOutput=append:$MACHINE/console.log"
            --setenv=SYSTEMD_NSPAWN_API_VFS_WRITABLE=1)
    fi
    say "starting at $ADDRESS on $BRIDGE"
    settings >"$MACHINE/settings"
    (
        [[ -d /run/systemd/system ]] || enter_cgroups
        export SYSTEMD_NSPAWN_API_VFS_WRITABLE=1
        exec "${parent[@]}" systemd-nspawn --quiet --register=no --keep-unit \
            "--directory=$ROOT" "--machine=$IDENTITY" "--hostname=$NAME" "--network-bridge=$BRIDGE" \
            --capability=all --private-users=no "--system-call-filter=@keyring bpf" \
            --resolv-conf=off --timezone=off --link-journal=no --bind=/dev/kmsg --boot
    ) </dev/null >"$MACHINE/console.log" 2>&1 9>&- &
}

boot_failed() {
    tail -n 15 "$MACHINE/console.log" >&2
    fail container-boot-failed "$1" \
        "the end of the machine's console is shown above" \
        "read all of it in $MACHINE/console.log"
}

wait_for_sshd() {
    local deadline=$((SECONDS + boot_timeout))
    until sshd_answers; do
        ((SECONDS < deadline)) || boot_failed "sshd at $ADDRESS did not answer in $boot_timeout s"
        sleep 0.1
        # It has had a second to start.
        ((SECONDS <= deadline - boot_timeout + 1)) || [[ -n $(supervisor) ]] ||
            boot_failed "systemd-nspawn ended"
    done
}

# Two machines with one address would answer for each other.
require_free_address() {
    local other
    for other in "$LAB"/machines/*/settings; do
        [[ $other != "$MACHINE/settings" && -f $other ]] || continue
        if grep -qF " $ADDRESS/" "$other"; then
            other=${other%/settings}
            fail address-in-lab-use "$ADDRESS already belongs to machine ${other##*/}" \
                "two machines with one address would answer for each other" \
                "give one of them another address"
        fi
    done
    if sshd_answers; then
        fail address-in-use "$ADDRESS already answers, and it is not a machine of this lab" \
            "two machines with one address would answer for each other" \
            "choose another address, or stop what uses it"
    fi
}

print_result() {
    local private_key
    private_key=$(<"$LAB/id_ed25519")
    printf '{"hostKey":"%s","privateKey":"%s\\n"}\n' \
        "$(cut -d' ' -f1,2 "$MACHINE/host_key.pub")" "${private_key//$'\n'/\\n}"
}

require_settings
base=${XDG_CACHE_HOME:-$HOME/.cache}/nordmesh/roots/base
require_host

lock_machine
mkdir -p "$MACHINE"

make_client_key
make_host_key
pid=$(supervisor)
if [[ -n $pid && $(cat "$MACHINE/settings" 2>/dev/null) != "$(settings)" ]]; then
    say "settings changed; stopping for a restart"
    stop "$pid"
    pid=
fi
if [[ -z $pid ]]; then
    require_free_address
    make_root
    configure_root
    start
fi
wait_for_sshd
print_result
