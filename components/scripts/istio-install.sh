#!/usr/bin/env bash
# Runs on a control plane: installs the mesh with istioctl under a revision, and
# verifies it. Reads: NODE_NAME BINARIES OPERATOR REVISION ALLOW_UNSUPPORTED.
# istioctl applies what differs, so a second or an interrupted run is harmless.

export KUBECONFIG=/etc/kubernetes/admin.conf
readonly FILE=$RUN_DIR/istio-operator.yaml

single_run
while IFS=' ' read -r name url sha256 member; do
    fetch "$name" "$url" "$sha256" "$member" "/usr/local/bin/$name"
done <<<"$BINARIES"
write_file "$FILE" 600 "$OPERATOR" || true

step "istioctl precheck"
if ! istioctl experimental precheck --revision "$REVISION" >"$LOG_DIR/istio-precheck.log" 2>&1 9>&-; then
    cat "$LOG_DIR/istio-precheck.log" >&2
    [ "$ALLOW_UNSUPPORTED" = true ] ||
        fail "istioctl precheck refuses this cluster" "its reasons are shown above" \
            "mend them, or choose another nordmesh:istio.version"
fi

step "istioctl install, revision $REVISION"
# Workers join meanwhile, on which the install waits: they go first where cores are few.
logged istio-install nice -n 10 istioctl install --skip-confirmation --readiness-timeout 8m --filename "$FILE"
# Namespaces say istio-injection=enabled; the tag decides which revision serves them.
logged istio-tag istioctl tag set default --revision "$REVISION" --overwrite
step "istioctl verify-install"
logged istio-verify istioctl verify-install --filename "$FILE"
step "mesh installed"
