#!/usr/bin/env bash
# Pulls pinned images; for scripts that use it after lib.sh.

# The images that this node will run: on each line a reference and its digest, or - without one.
readonly IMAGES_FILE=/var/lib/nordmesh/images
readonly PULLED=$RUN_DIR/pulled
readonly PULL_LOG=$LOG_DIR/pull-images.log
readonly PULL_PROXY=$RUN_DIR/pull-proxy

pulling() { is_active nordmesh-pull; }

# write_proxy: writes the proxy for the unit that pulls. Only root can read the file; arguments and the
# properties of a unit can be read by every user, and the proxy may have a login.
write_proxy() {
    local setting
    (umask 077 && : >"$PULL_PROXY")
    for setting in "${PROXY[@]}"; do
        printf "%s='%s'\n" "${setting%%=*}" "${setting#*=}" >>"$PULL_PROXY"
    done
}

# pull_images: pulls them in the background, unless that already runs. An image with a digest is pulled by
# it, so that containerd refuses any other content, and then tagged with its name, which kubelet asks for.
# kubelet does not pull an image that has its name already. Ends at the first image with a digest that
# cannot be pulled.
pull_images() {
    ! pulling || return 0
    systemctl reset-failed nordmesh-pull 2>/dev/null || true
    (umask 077 && : >"$PULL_LOG")
    rm -f "$PULLED"
    write_proxy
    # shellcheck disable=SC2016 # expanded by the unit's own shell
    systemd-run --quiet --collect --unit=nordmesh-pull \
        --setenv=IMAGES_FILE="$IMAGES_FILE" --setenv=PULLED="$PULLED" --setenv=PULL_LOG="$PULL_LOG" \
        --property=EnvironmentFile="$PULL_PROXY" bash -c '
        exec >>"$PULL_LOG" 2>&1
        ctr() { timeout 600 ctr -n k8s.io "$@"; }
        : >"$PULLED"
        existing=$(ctr images ls | awk "{ print \$1, \$3 }")
        while read -r image digest; do
            [ -n "$image" ] || continue
            if [ "$digest" = - ]; then
                grep -qF "$image " <<<"$existing" || ctr images pull --hosts-dir /etc/containerd/certs.d "$image"
                continue
            fi
            pinned=${image%:*}@$digest
            for attempt in 1 2 3 4; do
                [ "$attempt" -lt 4 ] || exit 1
                if { grep -qxF "$image $digest" <<<"$existing" && grep -qxF "$pinned $digest" <<<"$existing"; } ||
                    { ctr images pull --hosts-dir /etc/containerd/certs.d "$pinned" &&
                        ctr images tag --force "$pinned" "$image"; }; then
                    echo "$image $digest" >>"$PULLED"
                    break
                fi
                sleep "$attempt"
            done
        done <"$IMAGES_FILE"' 9>&-
}

# without_error COMMAND...: runs a grep; no match is not a failure.
without_error() { "$@" || [ "$?" = 1 ]; }

# missing_images PATTERN: the images with a digest that match and are not pulled yet.
missing_images() {
    [ -f "$IMAGES_FILE" ] || return 0
    touch "$PULLED" || return 1
    without_error grep -e "$1" "$IMAGES_FILE" | without_error grep -v ' -$' | without_error grep -vxF -f "$PULLED"
}

# wait_for_images [PATTERN]: waits until the images with a digest that match are pulled, so that kubelet
# never pulls one of them by its name alone.
wait_for_images() {
    local pattern=${1:-} tries=0 ended=false missing
    while :; do
        pulling || ended=true
        missing=$(missing_images "$pattern") || fail pulled-images-unreadable "the list of pulled images cannot be read" \
            "without it, an image that is not in the lock file could run" \
            "check $PULLED and $IMAGES_FILE on the node, then run \`pulumi up\` again"
        [ -n "$missing" ] || return 0
        if $ended; then
            tries=$((tries + 1))
            if [ "$tries" -gt 1 ]; then
                grep '^ctr: ' "$PULL_LOG" | tail -n 1 >&2 || true
                fail image-pull-failed "these images cannot be pulled: ${missing//$'\n'/, }" \
                    "the node runs only images of the lock file; containerd's error is above, and in $PULL_LOG" \
                    "check nordmesh:artifacts.registry: it must have each image with this digest; then run \`pulumi up\` again"
            fi
            step "pull images"
            pull_images
            ended=false
        fi
        sleep 0.3
    done
}
