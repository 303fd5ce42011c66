#!/usr/bin/env bash
# Runs on a control plane: installs the mesh with istioctl under a revision, and verifies it. Reads:
# NODE_NAME BINARIES CONTROL_PLANE GATEWAYS REVISION ALLOW_UNSUPPORTED READINESS_TIMEOUT; CONTROL_PLANE and
# GATEWAYS are IstioOperators. An existing revision keeps serving; istio-rollout.sh moves its workloads.
# Safe to run again, also after a kill: istioctl applies what differs, and removes a gateway that is no
# longer in a document.
# Uses: fetch.sh mesh.sh

readonly LOG=$LOG_DIR/istio-install.log

# default_revision: the revision of namespaces with istio-injection=enabled.
default_revision() {
    look_up mutatingwebhookconfiguration istio-revision-tag-default --ignore-not-found \
        -o 'jsonpath={.metadata.labels.istio\.io/rev}'
}

# not_ready: the mesh's pods that are not ready, with the reason.
not_ready() {
    look_up -n "$SYSTEM" pods -o 'jsonpath={range .items[*]}{.metadata.name}|{.status.conditions[?(@.type=="Ready")].status}|{.status.conditions[?(@.type=="PodScheduled")].message} {.status.containerStatuses[*].state.waiting.message}{"\n"}{end}' |
        awk -F '|' '$2 != "True" { print "  pod " $1 " is not ready: " $3 }'
}

# document NAME CONTENT: writes a document; ends the script if istioctl does not accept it.
document() {
    write_file "$RUN_DIR/$1.yaml" 600 "$2" || true
    istioctl manifest generate --filename "$RUN_DIR/$1.yaml" >/dev/null 2>"$LOG" 9>&- && return 0
    tail -n 5 "$LOG" >&2
    fail istio-values-invalid "istioctl does not accept this configuration" \
        "its reasons are shown above; nothing was changed" \
        "fix nordmesh:istio.values or nordmesh:istio.overlay, then run \`pulumi up\` again"
}

# install_document NAME: installs a document, or ends the script with the pods that are not ready.
install_document() {
    # The install waits for workers, which join meanwhile: with few cores, they go first.
    nice -n 10 istioctl install --skip-confirmation --readiness-timeout "$READINESS_TIMEOUT" \
        --filename "$RUN_DIR/$1.yaml" >"$LOG" 2>&1 9>&- && return 0
    tail -n 25 "$LOG" >&2
    not_ready >&2 || step "could not check which pods are not ready"
    fail istio-install-failed "istioctl install failed" \
        "above are the end of $LOG and the pods that are not ready; the revision that served traffic before still does" \
        "fix the errors above, or set nordmesh:istio back; then run \`pulumi up\` again"
}

# verify NAME: verifies a document. It may take a while: an autoscaler may still add pods, which count, too.
verify() {
    local deadline=$((SECONDS + 120))
    step "istioctl verify-install $1"
    while ! istioctl verify-install --filename "$RUN_DIR/$1.yaml" >/dev/null 2>&1 9>&-; do
        [ "$SECONDS" -lt "$deadline" ] ||
            logged istio-verify istioctl verify-install --filename "$RUN_DIR/$1.yaml"
        sleep 2
    done
}

single_run
fetch_all "$BINARIES"
require_api
document istio-control-plane "$CONTROL_PLANE"
document istio-gateways "$GATEWAYS"
step "istioctl precheck"
if ! istioctl experimental precheck --revision "$REVISION" >"$LOG_DIR/istio-precheck.log" 2>&1 9>&-; then
    cat "$LOG_DIR/istio-precheck.log" >&2
    [ "$ALLOW_UNSUPPORTED" = true ] ||
        fail istio-precheck-failed "istioctl precheck refuses this cluster" \
            "its reasons are shown above" \
            "fix them, or choose another nordmesh:istio.version"
fi

for name in istio-control-plane istio-gateways; do
    step "istioctl install $name, revision $REVISION"
    install_document "$name"
    # The tag decides which revision serves the namespaces with istio-injection=enabled.
    current=$(ask default_revision) || no_answer "which revision is the default"
    case $current in
    '' | "$REVISION") logged istio-tag istioctl tag set default --revision "$REVISION" --overwrite ;;
    esac
done
verify istio-control-plane
# Without gateways there is nothing to verify, which istioctl reports as a failure.
[[ $GATEWAYS != *Gateways:* ]] || verify istio-gateways
step "mesh installed"
