#!/usr/bin/env bash
# The library of every script that runs on a node; it comes before the script's own text. Progress goes
# to stderr, and only the result to stdout. Settings are exported variables; secrets come from stdin.
set -euo pipefail
umask 022
export LC_ALL=C PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin

# The machine's proxy is for downloads only. kubeadm, kubectl and istioctl would ask the API server through
# it, and kubeadm would write it into the control plane's pods.
PROXY=()
for name in {http,https,ftp,all,no}_proxy {HTTP,HTTPS,FTP,ALL,NO}_PROXY; do
    [ -z "${!name-}" ] || PROXY+=("$name=${!name}")
    unset "$name"
done
unset name
# The stack file's replaces it.
[ -z "${DOWNLOAD_PROXY-}" ] ||
    PROXY=("http_proxy=$DOWNLOAD_PROXY" "https_proxy=$DOWNLOAD_PROXY" "no_proxy=$DOWNLOAD_DIRECT")
readonly PROXY

# with_proxy COMMAND...: runs a download with the machine's proxy, if it has one. The proxy may have a
# login, which must not be an argument: every user of the machine can read those.
with_proxy() {
    (
        [ "${#PROXY[@]}" = 0 ] || export "${PROXY[@]}"
        exec "$@"
    )
}

# The end of a cluster on a machine; kubeadm alone leaves nordmesh's files, which make the machine its member.
# shellcheck disable=SC2034 # for the scripts after this
readonly CLEAR="run \`kubeadm reset --force\` on this machine, and remove /etc/kubernetes and /var/lib/etcd/member"
readonly LOG_DIR=/var/log/nordmesh
readonly RUN_DIR=/run/nordmesh

# step TEXT: prints a line of progress.
step() { printf '%s: %s\n' "$NODE_NAME" "$*" >&2; }

# warn TEXT: prints a warning. RemoteScript repeats it at the end of the run, because each line of
# progress overwrites the one before.
warn() { step "WARNING: $*"; }

# The status of a subshell that has printed its error.
readonly REPORTED=70

# fail CODE WHAT WHY FIX: ends the script with an error in the form of config.errors.render. Each rule
# has its own code, which never changes.
fail() {
    printf '\nERROR on node %s: %s [%s]\n    why   %s\n    fix   %s\n' "$NODE_NAME" "$2" "$1" "$3" "$4" >&2
    [ "$BASHPID" = "$$" ] || exit "$REPORTED"
    exit 1
}

# explain STATUS COMMAND: ends the script with an error because of a command whose failure nothing else
# handles, so that no failure is silent. In a subshell, the command around it fails next.
explain() {
    [ "$BASHPID" = "$$" ] || return 0
    [ "$1" != "$REPORTED" ] || exit 1
    (fail command-failed "this command failed with status $1: ${2%%$'\n'*}" \
        "the script cannot continue without it; its error is shown above, if it printed one" \
        "fix the errors above (\`df -h\` shows whether a disk is full), then run \`pulumi up\` again: it continues from here") ||
        exit "$1"
}
set -E
trap 'explain "$?" "$BASH_COMMAND"' ERR

# wait_for_lock SECONDS: takes the lock of file descriptor 9; false if another run holds it for that
# long.
wait_for_lock() {
    flock --nonblock 9 && return 0
    step "waiting for an earlier run to end"
    flock --wait "$1" 9 || return 1
    # A script that lost its connection while it waited ends here, because nobody reads this line: a
    # later run may have used other settings since.
    step "the earlier run has ended"
}

# single_run: waits for an earlier run of any nordmesh script on this node. A killed `pulumi up` leaves
# its script running, and two scripts must never interleave.
single_run() {
    exec 9>"$RUN_DIR/lock"
    wait_for_lock 600 || fail node-locked "another nordmesh script has run for ten minutes" \
        "two scripts on one node would undo each other's work" \
        "check the processes on the node; run \`pulumi up\` again when the script has ended"
}

# logged NAME COMMAND...: runs a command with its output in a log on the node. If it fails, shows the end
# of the log and ends the script.
logged() {
    local name=$1 log="$LOG_DIR/$1.log"
    shift
    (umask 077 && : >"$log")
    if ! "$@" >"$log" 2>&1 9>&-; then
        tail -n 25 "$log" >&2
        fail step-failed "$name failed" \
            "the lines above are the end of $log" \
            "fix the errors above, then run \`pulumi up\` again: it continues from here"
    fi
}

# cannot_write PATH: ends the script because a file could not be replaced.
cannot_write() {
    fail write-failed "cannot write $1" \
        "the error is shown above; the file is unchanged" \
        "if the disk is full (\`df -h $(dirname "$1")\`), free space; then run \`pulumi up\` again"
}

# write_file PATH MODE CONTENT: replaces a file atomically; true if it changed. Ends the script if it
# cannot: in `write_file ... || true`, bash would ignore a failed command.
write_file() {
    local path=$1 mode=$2 content=$3
    if [ -f "$path" ] && [ "$(cat "$path"; echo x)" = "$content"$'\nx' ] &&
        [ "$(stat -c %a "$path")" = "$mode" ]; then
        # From a killed run with other settings.
        [ ! -e "$path.new" ] || rm -f "$path.new"
        return 1
    fi
    if ! {
        mkdir -p "$(dirname "$path")" &&
            (umask 077 && printf '%s\n' "$content" >"$path.new") &&
            chmod "$mode" "$path.new" &&
            mv -f "$path.new" "$path"
    }; then
        rm -f "$path.new"
        cannot_write "$path"
    fi
}

# until_true SECONDS WHAT COMMAND...: waits until the command succeeds, or ends the script.
until_true() {
    local seconds=$1 deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            "$@" >&2 || true
            fail timed-out "timed out after $seconds s waiting for $what" \
                "the last attempt is shown above" \
                "check \`journalctl -u kubelet -u containerd -u nordmesh-endpoint\` on the node, then run \`pulumi up\` again"
        fi
        sleep 0.3
    done
}

# is_active UNIT: whether systemd runs a unit; ends the script if systemd does not answer.
is_active() {
    local state code=0
    state=$(systemctl is-active "$1" 2>&1) || code=$?
    case $code in
    0) return 0 ;;
    3 | 4) return 1 ;;
    *)
        fail systemd-silent "systemd does not show whether $1 runs: $state" \
            "without its answer, the script could change files that are in use" \
            "check \`systemctl status\` on the node, then run \`pulumi up\` again"
        ;;
    esac
}

# stop_for_good UNIT...: stops services, also for the next boot; ends the script if one still runs.
stop_for_good() {
    local unit
    # This also fails without a unit; what counts is that none runs.
    systemctl disable --quiet --now "$@" 9>&- 2>/dev/null || true
    for unit in "$@"; do
        ! is_active "$unit" || fail service-does-not-stop "$unit does not stop" \
            "it uses the files that are about to be removed" \
            "check \`systemctl status $unit\` on the node, then run \`pulumi up\` again"
    done
}

# need_disk PATH MIB: ends the script if a disk has less free space than this.
need_disk() {
    local path=$1 needed=$2 free
    mkdir -p "$path"
    free=$(df --output=avail -BM "$path" | tail -n 1 | tr -dc 0-9)
    [ "$free" -ge "$needed" ] || fail disk-too-full "$free MiB free below $path, $needed MiB needed" \
        "containerd, kubelet and etcd stop when the disk is full" \
        "free space or grow the disk, then run \`pulumi up\` again: it continues from here"
}

# keep_generated: keeps copies of what kubeadm wrote on this node, once, so that `nordmesh drift` can
# show later changes.
keep_generated() {
    local directory=/etc/kubernetes/nordmesh-made
    [ ! -d "$directory" ] || return 0
    rm -rf "$directory.new"
    install -d -m 700 "$directory.new"
    cp /var/lib/kubelet/config.yaml /var/lib/kubelet/kubeadm-flags.env "$directory.new/"
    [ ! -d /etc/kubernetes/manifests ] ||
        find /etc/kubernetes/manifests -name '*.yaml' -exec cp -t "$directory.new" {} +
    mv -T "$directory.new" "$directory"
}

install -d -m 700 "$RUN_DIR" "$LOG_DIR"

# ask COMMAND...: prints the output of a command that only reads. Retries for a minute while the command
# fails; then shows its error and returns its status. For `x=$(ask ...) || fail ...`: a failure is never
# an answer.
ask() {
    local deadline=$((SECONDS + 60)) output
    until output=$("$@" 2>/dev/null); do
        if [ "$SECONDS" -ge "$deadline" ]; then
            output=$("$@") || return
            break
        fi
        sleep 2
    done
    printf '%s\n' "$output"
}
