#!/usr/bin/env bash
# The cluster and the mesh of a stack without Pulumi: the usual commands over plain ssh, one after
# another. Reads: CP_NAME CP_ADDRESS WORKER_NAME WORKER_ADDRESS SSH_KEY KNOWN_HOSTS ISTIOCTL_URL
# ISTIOCTL_SHA256 REVISION, and FILES, the directory of what by_hand.py rendered.
# Prints "== NAME" at the start of each step.
set -euo pipefail

step() { printf '== %s\n' "$*"; }

# on ADDRESS COMMAND: runs a command on a node.
on() {
    ssh -F none -i "$SSH_KEY" -o BatchMode=yes -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes \
        -o "UserKnownHostsFile=$KNOWN_HOSTS" "root@$1" "export KUBECONFIG=/etc/kubernetes/admin.conf; $2"
}

prepare() {
    step "prepare $1"
    on "$2" 'cat >/root/prepare.sh && bash /root/prepare.sh </dev/null' <"$FILES/prepare-$1.sh"
}

# ready NAME: waits until a node is Ready; it may not have come up in the API yet.
ready() {
    step "wait until $1 is Ready"
    on "$CP_ADDRESS" "until kubectl wait --for=condition=Ready node/$1 --timeout=300s; do sleep 0.3; done"
}

prepare "$CP_NAME" "$CP_ADDRESS"
prepare "$WORKER_NAME" "$WORKER_ADDRESS"

step "kubeadm init"
on "$CP_ADDRESS" 'mkdir -p /etc/kubernetes/audit /etc/kubernetes/nordmesh-patches &&
    cat >/etc/kubernetes/audit/policy.yaml' <"$FILES/audit-policy.yaml"
# shellcheck disable=SC2016 # the key is made there
on "$CP_ADDRESS" 'umask 077 && mkdir -p /etc/kubernetes/pki && key=$(head -c 32 /dev/urandom | base64) &&
    sed "s,@KEY@,$key," >/etc/kubernetes/pki/encryption.yaml' <"$FILES/encryption.yaml"
on "$CP_ADDRESS" 'cat >/root/kubeadm.yaml && kubeadm init --config /root/kubeadm.yaml --skip-token-print' \
    <"$FILES/kubeadm-init.yaml"
# Made now, as kubeadm init does by default: a join waits for a token that is new.
join=$(on "$CP_ADDRESS" 'kubeadm token create --ttl 10m --print-join-command')

step "apply flannel"
on "$CP_ADDRESS" 'kubectl apply -f -' <"$FILES/flannel.yaml"
step "apply metrics-server"
on "$CP_ADDRESS" 'kubectl apply -f -' <"$FILES/metrics-server.yaml"
ready "$CP_NAME"

step "kubeadm join"
on "$WORKER_ADDRESS" "bash /usr/local/lib/nordmesh/endpoint.sh $CP_ADDRESS && $join --node-name $WORKER_NAME --skip-phases preflight"
ready "$WORKER_NAME"

step "download istioctl"
on "$CP_ADDRESS" "curl --fail --silent --show-error --location --output /root/istioctl.tar.gz '$ISTIOCTL_URL' &&
    echo '$ISTIOCTL_SHA256  /root/istioctl.tar.gz' | sha256sum --check --quiet &&
    tar -xzf /root/istioctl.tar.gz -C /usr/local/bin istioctl"
step "istioctl precheck"
on "$CP_ADDRESS" "istioctl experimental precheck --revision $REVISION"
for document in istio-control-plane istio-gateways; do
    step "istioctl install $document"
    on "$CP_ADDRESS" "cat >/root/$document.yaml &&
        istioctl install --skip-confirmation --readiness-timeout 8m --filename /root/$document.yaml" \
        <"$FILES/$document.yaml"
done
step "istioctl tag"
on "$CP_ADDRESS" "istioctl tag set default --revision $REVISION --overwrite"
step "istioctl verify-install"
on "$CP_ADDRESS" 'istioctl verify-install --filename /root/istio-control-plane.yaml &&
    istioctl verify-install --filename /root/istio-gateways.yaml'

step "apply the mesh policy"
on "$CP_ADDRESS" 'kubectl apply -f -' <"$FILES/mesh.yaml"
