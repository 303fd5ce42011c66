#!/usr/bin/env bash
# The programs of a node whose machine is pretended (tests/engine/pretended.py), under their names.
# They leave the files that the real ones leave, a piece at a time, and write into a journal when
# they begin and when they end. RUN is a setting of the test's.
set -euo pipefail

journal() { printf '%s %s %s\n' "$1" "$RUN" "$work" >>/run/journal; }
working() { work=$1; journal begin; }
worked() { journal end; }
slowly() { sleep "${SLOWLY:-0.05}"; }
pieces() { # FILE LINE...: writes a file as one that may be killed between any two lines
    local file=$1 line
    shift
    mkdir -p "$(dirname "$file")"
    : >"$file"
    for line in "$@"; do printf '%s\n' "$line" >>"$file"; slowly; done
}

ca=$(printf 'a certificate' | base64)
token=issued.0123456789abcdef
key=$(printf 'c0ffee%.0s' {1..11})

pods() { # the manifests with the annotations of nordmesh
    local pod annotation
    for pod in kube-apiserver kube-controller-manager kube-scheduler; do
        annotation=$(sed 's/.*settings":"//; s/".*//' "/etc/kubernetes/nordmesh-patches/$pod+merge.json")
        pieces "/etc/kubernetes/manifests/$pod.yaml" metadata: '  annotations:' "    nordmesh.io/settings: $annotation"
    done
}

kubeadm() {
    case "$1 ${2-} ${3-}" in
    'init phase control-plane') pods ;;
    'init phase upload-config') ;;
    'init phase upload-certs') printf '[upload-certs] Using certificate key:\n%.64s\n' "$key" ;;
    init*)
        working 'kubeadm init'
        pieces /etc/kubernetes/pki/ca.crt 'a certificate'
        pieces /etc/kubernetes/admin.conf "    certificate-authority-data: $ca" \
            "    client-certificate-data: $ca" '    client-key-data: client-key-in-the-clear'
        pieces /var/lib/kubelet/config.yaml 'kind: KubeletConfiguration'
        pieces /var/lib/kubelet/kubeadm-flags.env 'KUBELET_KUBEADM_ARGS='
        pods
        worked
        ;;
    join*)
        working 'kubeadm join'
        document=$(cat "$3")
        grep -q "$token" <<<"$document"
        # In one write: this machine is also the control plane, whose CA is never incomplete.
        printf 'a certificate' >/etc/kubernetes/pki/ca.crt
        if grep -q "${key:0:64}" <<<"$document"; then
            cp /etc/hosts /run/hosts-at-join
            pieces /etc/kubernetes/admin.conf "    certificate-authority-data: $ca" \
                "    client-certificate-data: $ca" '    client-key-data: client-key-in-the-clear'
            pods
        fi
        pieces /var/lib/kubelet/config.yaml 'kind: KubeletConfiguration'
        pieces /var/lib/kubelet/kubeadm-flags.env 'KUBELET_KUBEADM_ARGS='
        pieces /etc/kubernetes/kubelet.conf 'kind: Config'
        touch /run/kubelet-active
        worked
        ;;
    token*) echo "$token" ;;
    esac
}

kubectl() {
    case "$*" in
    *readyz*) grep -q client-key-data /etc/kubernetes/admin.conf ;;
    *mutatingwebhook*) ;;
    *--selector*control-plane*) echo "server=192.0.2.11" ;;
    *'get node '*) echo node/cp-1 ;;
    *'get pod kube-'*)
        pod=$*
        pod=${pod#*get pod }
        pod=${pod%%-cp-*}
        echo "$(sed -n 's/^ *nordmesh.io.settings: //p' "/etc/kubernetes/manifests/$pod.yaml") True"
        ;;
    esac
}

istioctl() {
    case "$1 ${2-}" in
    'install --skip-confirmation')
        working "istioctl install"
        slowly
        slowly
        worked
        ;;
    esac
}

systemctl() {
    case "$*" in
    *is-active*kubelet*) [ -e /run/kubelet-active ] || exit 3 ;;
    *is-active*) exit 3 ;;
    'start kubelet') touch /run/kubelet-active ;;
    'stop kubelet') rm -f /run/kubelet-active ;;
    esac
}

"${0##*/}" "$@"
