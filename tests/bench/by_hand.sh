#!/usr/bin/env bash
# The cluster and the mesh of a stack without Pulumi: the usual commands over plain ssh, one after
# another. Reads: CONTROL_PLANES and WORKERS (NAME=ADDRESS, separated by spaces) ENDPOINT SSH_KEY
# KNOWN_HOSTS ISTIOCTL_URL ISTIOCTL_SHA256 REVISION, and FILES, the directory of what by_hand.py
# rendered. Prints "== NAME" at the start of each step.
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
    on "$first" "until kubectl wait --for=condition=Ready node/$1 --timeout=300s; do sleep 0.3; done"
}

# write_policy ADDRESS: writes the audit policy, which the API server reads.
write_policy() {
    on "$1" 'mkdir -p /etc/kubernetes/audit && cat >/etc/kubernetes/audit/policy.yaml' <"$FILES/audit-policy.yaml"
}

# join_plane NAME ADDRESS: joins a control plane. etcd is not checked before: the other firewalls accept this
# machine's connections to it only once its node is in the cluster.
join_plane() {
    local keys
    step "kubeadm join $1"
    write_policy "$2"
    keys=$(on "$first" 'cat /etc/kubernetes/pki/encryption.yaml')
    on "$2" 'umask 077 && mkdir -p /etc/kubernetes/pki && cat >/etc/kubernetes/pki/encryption.yaml' <<<"$keys"
    # Until it has its own API server, the endpoint's name leads to the first one.
    on "$2" "sed -i '1i $first $ENDPOINT # by hand' /etc/hosts &&
        $join --control-plane --certificate-key $certificates --apiserver-advertise-address $2 \
            --node-name $1 --skip-phases preflight,check-etcd &&
        sed -i '/# by hand\$/d' /etc/hosts"
    ready "$1"
}

# join_worker NAME ADDRESS
join_worker() {
    step "kubeadm join $1"
    on "$2" "bash /usr/local/lib/nordmesh/endpoint.sh ${planes[*]#*=} &&
        $join --node-name $1 --skip-phases preflight"
    ready "$1"
}

read -ra planes <<<"$CONTROL_PLANES"
read -ra rest <<<"$WORKERS"
first=${planes[0]#*=}

for node in "${planes[@]}" "${rest[@]}"; do prepare "${node%=*}" "${node#*=}"; done

step "kubeadm init"
write_policy "$first"
# shellcheck disable=SC2016 # the key is made there
on "$first" 'umask 077 && mkdir -p /etc/kubernetes/{pki,nordmesh-patches} && key=$(head -c 32 /dev/urandom | base64) &&
    sed "s,@KEY@,$key," >/etc/kubernetes/pki/encryption.yaml' <"$FILES/encryption.yaml"
on "$first" 'cat >/root/kubeadm.yaml && kubeadm init --config /root/kubeadm.yaml --skip-token-print' \
    <"$FILES/kubeadm-init.yaml"
# Made now, as kubeadm init does by default: a join waits for a token that is new.
join=$(on "$first" 'kubeadm token create --ttl 1h --print-join-command')
if [ "${#planes[@]}" -gt 1 ]; then
    step "kubeadm upload-certs"
    certificates=$(on "$first" 'kubeadm init phase upload-certs --upload-certs --config /root/kubeadm.yaml')
    certificates=$(grep -xE '[0-9a-f]{64}' <<<"$certificates")
fi

step "apply flannel"
on "$first" 'kubectl apply -f -' <"$FILES/flannel.yaml"
step "apply metrics-server"
on "$first" 'kubectl apply -f -' <"$FILES/metrics-server.yaml"
ready "${planes[0]%=*}"

for node in "${planes[@]:1}"; do join_plane "${node%=*}" "${node#*=}"; done
for node in "${rest[@]}"; do join_worker "${node%=*}" "${node#*=}"; done
step "spread CoreDNS"
# A part of the Deployment, which alone would not be valid.
on "$first" 'kubectl apply --server-side --force-conflicts --validate=false -f -' <"$FILES/coredns.yaml"

step "download istioctl"
on "$first" "curl --fail --silent --show-error --location --output /root/istioctl.tar.gz '$ISTIOCTL_URL' &&
    echo '$ISTIOCTL_SHA256  /root/istioctl.tar.gz' | sha256sum --check --quiet &&
    tar -xzf /root/istioctl.tar.gz -C /usr/local/bin istioctl"
step "istioctl precheck"
on "$first" "istioctl experimental precheck --revision $REVISION"
for document in istio-control-plane istio-gateways; do
    step "istioctl install $document"
    on "$first" "cat >/root/$document.yaml &&
        istioctl install --skip-confirmation --readiness-timeout 8m --filename /root/$document.yaml" \
        <"$FILES/$document.yaml"
done
step "istioctl tag"
on "$first" "istioctl tag set default --revision $REVISION --overwrite"
step "istioctl verify-install"
on "$first" 'istioctl verify-install --filename /root/istio-control-plane.yaml &&
    istioctl verify-install --filename /root/istio-gateways.yaml'

step "apply the mesh policy"
on "$first" 'kubectl apply -f -' <"$FILES/mesh.yaml"
