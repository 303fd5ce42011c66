#!/usr/bin/env bash
# Shared by every script that runs on a node; RemoteScript puts it in front of
# the script's own text. Progress goes to stderr; stdout holds only the result.
# Settings come as exported variables, secrets only through stdin.
set -euo pipefail
umask 022
export LC_ALL=C PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin

readonly LOG_DIR=/var/log/nordmesh
readonly RUN_DIR=/run/nordmesh

# step TEXT: one line of progress.
step() { printf '%s: %s\n' "$NODE_NAME" "$*" >&2; }

# fail WHAT WHY REMEDY: ends the script with an error that names the node.
fail() {
    printf '\nERROR on node %s: %s\n  why:    %s\n  remedy: %s\n' "$NODE_NAME" "$1" "$2" "$3" >&2
    exit 1
}

# single_run: waits for an earlier run of any nordmesh script on this node. A
# killed `pulumi up` leaves its script running, and two must never interleave.
single_run() {
    exec 9>"$RUN_DIR/lock"
    flock --nonblock 9 && return 0
    step "wait for an earlier run on this node to end"
    flock --wait 600 9 || fail "another nordmesh script has run for ten minutes" \
        "two scripts on one node would undo each other's work" \
        "look at the processes on the node; run \`pulumi up\` again when it has ended"
}

# logged NAME COMMAND...: runs a command with its output in a log on the node;
# shows the log's end when it fails.
logged() {
    local name=$1 log="$LOG_DIR/$1.log"
    shift
    (umask 077 && : >"$log")
    if ! "$@" >"$log" 2>&1 9>&-; then
        tail -n 25 "$log" >&2
        fail "$name failed" "the lines above are the end of $log" \
            "mend what they name, then run \`pulumi up\` again: it goes on from here"
    fi
}

# write_file PATH MODE CONTENT: replaces a file whole; true when it changed.
write_file() {
    local path=$1 mode=$2 content=$3
    if [ -f "$path" ] && [ "$(cat "$path"; echo x)" = "$content"$'\nx' ] &&
        [ "$(stat -c %a "$path")" = "$mode" ]; then
        return 1
    fi
    mkdir -p "$(dirname "$path")"
    (umask 077 && printf '%s\n' "$content" >"$path.new")
    chmod "$mode" "$path.new"
    mv -f "$path.new" "$path"
}

# until_true SECONDS WHAT COMMAND...: polls until the command succeeds.
until_true() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            "$@" >&2 || true
            fail "$what did not come within time" "the last try is shown above" \
                "look at \`journalctl -u kubelet -u containerd\` on the node, then run \`pulumi up\` again"
        fi
        sleep 0.3
    done
}

# need_disk PATH MIB: refuses to go on with less space than a step needs.
need_disk() {
    local path=$1 needed=$2 free
    mkdir -p "$path"
    free=$(df --output=avail -BM "$path" | tail -n 1 | tr -dc 0-9)
    [ "$free" -ge "$needed" ] || fail "$free MiB free below $path, $needed MiB needed" \
        "a full disk stops containerd, kubelet and etcd half-way" \
        "free space or grow the disk, then run \`pulumi up\` again: it goes on from here"
}

# checksum FILE: its sha256.
checksum() { sha256sum "$1" | cut -d' ' -f1; }

# request FILE URL: goes on where a file ends; prints the status that the server gave. curl's own
# retries would begin again each time (curl/curl#1084).
request() {
    curl --silent --show-error --fail --location --connect-timeout 10 --max-time 600 \
        --speed-limit 1 --speed-time 60 --continue-at - --write-out '%{http_code}' \
        --output "$1" "$2" 9>&-
}

# download_from NAME SHA256 FILE URL: a file with this checksum; false if it cannot be had there.
# What came of it stays, so that the next try, of another run even, goes on from there.
download_from() {
    local name=$1 sha256=$2 file=$3 url=$4 had status code got attempt
    for attempt in 1 2 3 4 5; do
        had=$(stat -c %s "$file" 2>/dev/null || echo 0)
        code=0
        status=$(request "$file" "$url") || code=$?
        if [ "$code" = 0 ]; then
            got=$(checksum "$file")
            [ "$got" != "$sha256" ] || return 0
            rm -f "$file"
            # The beginning may be that of another file: once more, from there.
            [ "$had" = 0 ] || continue
            fail "wrong checksum of $name: got $got, the lock file says $sha256" \
                "what $url serves is not what was reviewed; nothing was installed" \
                "find out who changed the file; put the right one on the mirror, or review and write a new lock file"
        fi
        case $code:$status in
        33:* | *:416) rm -f "$file" ;; # the server cannot go on from there
        *:408 | *:429) ;;
        *:4*) return 1 ;;
        esac
        sleep "$attempt"
    done
    return 1
}

# fetch NAME SHA256 MEMBER DESTINATION URL...: installs one pinned program from the first place that
# has it. MEMBER is the file inside a .tar.gz, or - for a bare binary.
fetch() {
    local name=$1 sha256=$2 member=$3 destination=$4 url file work
    local stamp=/var/lib/nordmesh/$name.sha256
    shift 4
    if [ -x "$destination" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$sha256" ]; then
        return 0
    fi
    step "download $name"
    mkdir -p /var/lib/nordmesh
    file=/var/lib/nordmesh/$name.$sha256.part
    find /var/lib/nordmesh -maxdepth 1 -name "$name.*.part" ! -name "${file##*/}" -delete
    if [ ! -f "$file" ] || [ "$(checksum "$file")" != "$sha256" ]; then
        for url in "$@"; do
            ! download_from "$name" "$sha256" "$file" "$url" || break
            [ "$url" != "${!#}" ] || fail "download of $name from $* failed" "the node cannot go on without it" \
                "check nordmesh:artifacts.mirror and that the node reaches it, then run \`pulumi up\` again"
            step "$name cannot be had from $url"
        done
    fi
    work=$(mktemp -d /var/lib/nordmesh/install.XXXXXX)
    if [ "$member" = - ]; then
        mv "$file" "$work/file"
    else
        tar -xzf "$file" -C "$work" "$member"
        mv "$work/$member" "$work/file"
    fi
    chmod 755 "$work/file"
    mv -f "$work/file" "$destination"
    printf '%s\n' "$sha256" >"$stamp"
    rm -rf "$work" "$file"
}

# The images that this node will run: a line each, a reference and its digest, or - for none.
readonly IMAGES_FILE=/var/lib/nordmesh/images
readonly PULLED=$RUN_DIR/pulled
readonly PULL_LOG=$LOG_DIR/pull-images.log

pulling() { systemctl is-active --quiet nordmesh-pull; }

# pull_images: pulls them in the background, unless that goes on. One with a digest is pulled by it,
# so that containerd refuses anything else, and then given its name, which kubelet asks for; it has
# no other way to the image while that is there. Ends at the first that cannot be had.
pull_images() {
    ! pulling || return 0
    systemctl reset-failed nordmesh-pull 2>/dev/null || true
    (umask 077 && : >"$PULL_LOG")
    rm -f "$PULLED"
    # shellcheck disable=SC2016 # expanded by the unit's own shell
    systemd-run --quiet --collect --unit=nordmesh-pull \
        --setenv=IMAGES_FILE="$IMAGES_FILE" --setenv=PULLED="$PULLED" --setenv=PULL_LOG="$PULL_LOG" bash -c '
        exec >>"$PULL_LOG" 2>&1
        ctr() { timeout 600 ctr -n k8s.io "$@"; }
        : >"$PULLED"
        there=$(ctr images ls | awk "{ print \$1, \$3 }")
        while read -r image digest; do
            [ -n "$image" ] || continue
            if [ "$digest" = - ]; then
                grep -qF "$image " <<<"$there" || ctr images pull --hosts-dir /etc/containerd/certs.d "$image"
                continue
            fi
            pinned=${image%:*}@$digest
            for attempt in 1 2 3 4; do
                [ "$attempt" -lt 4 ] || exit 1
                if { grep -qxF "$image $digest" <<<"$there" && grep -qxF "$pinned $digest" <<<"$there"; } ||
                    { ctr images pull --hosts-dir /etc/containerd/certs.d "$pinned" &&
                        ctr images tag --force "$pinned" "$image"; }; then
                    echo "$image $digest" >>"$PULLED"
                    break
                fi
                sleep "$attempt"
            done
        done <"$IMAGES_FILE"' 9>&-
}

# missing_images PATTERN: those with a digest that are not there yet, and whose names match.
missing_images() {
    [ -f "$IMAGES_FILE" ] || return 0
    touch "$PULLED"
    grep -e "$1" "$IMAGES_FILE" | grep -v ' -$' | grep -vxF -f "$PULLED" || true
}

# wait_for_images [PATTERN]: until the images with a digest are there, so that nothing runs by its
# name alone; those whose names match.
wait_for_images() {
    local pattern=${1:-} tries=0 missing
    while missing=$(missing_images "$pattern") && [ -n "$missing" ]; do
        if ! pulling && [ -n "$(missing_images "$pattern")" ]; then
            tries=$((tries + 1))
            if [ "$tries" -gt 1 ]; then
                grep '^ctr: ' "$PULL_LOG" | tail -n 1 >&2 || true
                fail "these images cannot be had: ${missing//$'\n'/, }" \
                    "the node runs only what the lock file says; what containerd says is above, and in $PULL_LOG" \
                    "check nordmesh:artifacts.registry: it must hold each image with this digest; then run \`pulumi up\` again"
            fi
            step "pull images"
            pull_images
        fi
        sleep 0.3
    done
}

# keep_made: keeps copies of what kubeadm wrote on this node, once, so that `make drift` can tell what
# has been changed since.
keep_made() {
    local place=/etc/kubernetes/nordmesh-made
    [ ! -d "$place" ] || return 0
    rm -rf "$place.new"
    install -d -m 700 "$place.new"
    cp /var/lib/kubelet/config.yaml /var/lib/kubelet/kubeadm-flags.env "$place.new/"
    [ ! -d /etc/kubernetes/manifests ] ||
        find /etc/kubernetes/manifests -name '*.yaml' -exec cp -t "$place.new" {} +
    mv -T "$place.new" "$place"
}

install -d -m 700 "$RUN_DIR" "$LOG_DIR"
