#!/usr/bin/env bash
# Issues a certificate of the administrator, for the kubeconfig in the stack's outputs. Reads: NODE_NAME
# ENDPOINT SINCE (a date; if empty, the certificate that kubeadm-init.sh printed is still in use, and this
# one prints nothing). Prints one line of JSON, a secret: {"clientCertificate", "clientKey"}, each PEM in
# base64. Writes nothing on the node, so it is safe to run again after a kill.
# Uses: identity.sh

[ -n "$SINCE" ] || exit 0
single_run
refuse_other_owner
# kubeadm asks the internet for the newest version unless it has one.
version=$(kubeadm version -o short)
config=$(
    printf '%s\n' 'apiVersion: kubeadm.k8s.io/v1beta3' 'kind: ClusterConfiguration' \
        "kubernetesVersion: $version" "controlPlaneEndpoint: $ENDPOINT:6443"
)
# A process has the key only in memory, never in a file.
kubeconfig=$(kubeadm kubeconfig user --config <(printf '%s\n' "$config") --client-name kubernetes-admin \
    --org system:masters 2>"$LOG_DIR/admin-credentials.log") || {
    cat "$LOG_DIR/admin-credentials.log" >&2
    fail credentials-not-issued "kubeadm did not issue a certificate for the administrator" \
        "the one in the stack's kubeconfig ends soon, and then neither \`pulumi up\` nor kubectl works" \
        "fix the errors above, then run \`pulumi up\` again"
}
# value KEY: prints a value of that kubeconfig.
value() { sed -n "s/^ *$1: //p" <<<"$kubeconfig"; }
step "new certificate for the administrator"
printf '{"clientCertificate":"%s","clientKey":"%s"}\n' "$(value client-certificate-data)" "$(value client-key-data)"
