#!/usr/bin/env bash
# Runs every day on each control plane as the service nordmesh-certificates: renews kubeadm's certificates
# that end within 90 days, and restarts the static pods that hold them, one control plane after another.
# Then records in the node's annotation nordmesh.io/certificates when each one ends, for `nordmesh status`.
# With `report`, only does the last step. Safe to run again after a kill at any line.
set -euo pipefail
umask 077
export LC_ALL=C PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin
# The API server is never behind the machine's proxy.
unset {http,https,ftp,all,no}_proxy {HTTP,HTTPS,FTP,ALL,NO}_PROXY

readonly RENEW_DAYS=90
# From here on, a certificate is renewed even if another control plane is down.
readonly URGENT_DAYS=14
readonly FOLDER=/etc/kubernetes
readonly ADMIN_CONF=$FOLDER/admin.conf
readonly KUBELET_CERTIFICATE=/var/lib/kubelet/pki/kubelet-client-current.pem
readonly RUN_DIR=/run/nordmesh
readonly LOG=/var/log/nordmesh/certificates.log
# The static pods that may have an old certificate.
readonly RESTART=/var/lib/nordmesh/certificates.restart
# The files from before a renewal that has not ended.
readonly BEFORE=/var/lib/nordmesh/certificates.before
readonly TURN_SECONDS=${TURN_SECONDS:-1800} POD_SECONDS=${POD_SECONDS:-300}
# A control plane that failed in its turn keeps it for a day.
readonly TURN_ENDS=86400
# The certificates of `kubeadm certs renew`: the name, the file, and the static pod that reads it at start.
readonly CERTIFICATES="\
etcd-server pki/etcd/server.crt etcd
etcd-peer pki/etcd/peer.crt etcd
etcd-healthcheck-client pki/etcd/healthcheck-client.crt -
apiserver pki/apiserver.crt kube-apiserver
apiserver-etcd-client pki/apiserver-etcd-client.crt kube-apiserver
apiserver-kubelet-client pki/apiserver-kubelet-client.crt kube-apiserver
front-proxy-client pki/front-proxy-client.crt kube-apiserver
controller-manager.conf controller-manager.conf kube-controller-manager
scheduler.conf scheduler.conf kube-scheduler
admin.conf admin.conf -
super-admin.conf super-admin.conf -"
readonly AUTHORITIES="\
ca pki/ca.crt -
etcd-ca pki/etcd/ca.crt -
front-proxy-ca pki/front-proxy-ca.crt -"

# note TEXT: prints a line, and keeps it in the log.
note() {
    printf '%s\n' "$*"
    printf '%s %s\n' "$(date -u +%FT%TZ)" "$*" >>"$LOG"
}

# fail CODE WHAT WHY FIX: ends the script with an error in the form of lib.sh.
fail() {
    note "ERROR: $2 [$1]; why: $3; fix: $4" >&2
    exit 1
}

# pem FILE: prints the certificate in a file of FOLDER.
pem() {
    case $1 in
    *.conf) sed -n 's/^ *client-certificate-data: //p' "$FOLDER/$1" | base64 -d ;;
    *) cat "$FOLDER/$1" ;;
    esac
}

# end_of FILE: prints when a certificate ends, in seconds since 1970.
end_of() {
    local certificate end
    certificate=$(pem "$1")
    end=$(openssl x509 -noout -enddate <<<"$certificate" 2>/dev/null) ||
        fail certificate-unreadable "$FOLDER/$1 has no certificate that can be read" \
            "it cannot be renewed, and nobody knows when it ends" \
            "restore the file from a backup, or create it again with \`kubeadm init phase certs\` or \`kubeadm init phase kubeconfig\`"
    date -u -d "${end#notAfter=}" +%s
}

# rows LIST: the rows of a list whose files exist.
rows() {
    local row name file pod
    while read -r row; do
        read -r name file pod <<<"$row"
        [ ! -e "$FOLDER/$file" ] || printf '%s %s %s\n' "$name" "$file" "$pod"
    done <<<"$1"
}

# ending DAYS: the rows of the certificates that end within this time.
ending() {
    local list name file pod end limit=$(($(date +%s) + $1 * 86400))
    list=$(rows "$CERTIFICATES")
    while read -r name file pod; do
        end=$(end_of "$file") || exit
        [ "$end" -ge "$limit" ] || printf '%s %s %s\n' "$name" "$file" "$pod"
    done <<<"$list"
}

as_admin() { kubectl --kubeconfig "$ADMIN_CONF" --cache-dir "$RUN_DIR/kubectl" --request-timeout 10s "$@"; }

# --- one control plane after another --------------------------------------------------------------

lease() { as_admin --namespace kube-system "${@:1:1}" lease nordmesh-certificates "${@:2}"; }

# write_lease COMMAND VERSION: creates the lease, or replaces the version that was read.
write_lease() {
    local now
    now=$(date -u +%FT%T.000000Z)
    as_admin "$1" --filename - >/dev/null 2>&1 <<<"{\"apiVersion\": \"coordination.k8s.io/v1\", \"kind\": \"Lease\",
        \"metadata\": {\"name\": \"nordmesh-certificates\", \"namespace\": \"kube-system\"$2},
        \"spec\": {\"holderIdentity\": \"$NODE\", \"renewTime\": \"$now\", \"leaseDurationSeconds\": $TURN_ENDS}}"
}

# take_turn: waits until no other control plane has the turn. Without an answer of the API server, nobody
# can agree on one: then only a certificate that ends soon is renewed.
take_turn() {
    local deadline=$((SECONDS + TURN_SECONDS)) found holder time version
    while :; do
        if ! found=$(lease get --ignore-not-found --output \
            'jsonpath={.spec.holderIdentity} {.spec.renewTime} {.metadata.resourceVersion}' 2>&1); then
            [ -z "$urgent" ] || return 0
            fail certificates-without-answer "the API server does not answer: $found" \
                "it decides whose turn it is; two control planes must not restart at once" \
                "check \`journalctl -u kubelet\` here; the next run is tomorrow"
        fi
        read -r holder time version <<<"$found" || true
        if [ -z "$holder" ]; then
            ! write_lease create "" || return 0
        elif [ "$holder" = "$NODE" ]; then
            return 0
        elif [ "$(($(date +%s) - $(date -u -d "$time" +%s)))" -gt "$TURN_ENDS" ]; then
            ! write_lease replace ", \"resourceVersion\": \"$version\"" || return 0
        fi
        [ "$SECONDS" -lt "$deadline" ] || fail certificates-not-our-turn "${holder:-another node} has had the turn since $time" \
            "two control planes must not restart at once" \
            "if $holder failed, see $LOG there; the next run is tomorrow"
        sleep 10
    done
}

# require_others: ends the script if a static pod of another control plane is not Ready: without a second
# member, etcd may lose its quorum while this one restarts.
require_others() {
    local pods waiting
    pods=$(as_admin --namespace kube-system get pods --selector tier=control-plane --output \
        'jsonpath={range .items[*]}{.spec.nodeName} {.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}' 2>&1) || {
        [ -n "$urgent" ] && return 0
        fail certificates-others-unknown "the API server does not show the other control planes: $pods" \
            "two control planes must not restart at once" \
            "check \`kubectl -n kube-system get pods\`; the next run is tomorrow"
    }
    waiting=$(awk -v own="$NODE" 'NF && $1 != own && $3 != "True" { print $2 }' <<<"$pods")
    [ -z "$waiting" ] && return 0
    if [ -n "$urgent" ]; then
        note "${waiting//$'\n'/ } is not ready, but a certificate ends within $URGENT_DAYS days"
        return 0
    fi
    lease delete --ignore-not-found >/dev/null 2>&1 || true
    fail certificates-others-not-ready "${waiting//$'\n'/ } is not ready" \
        "etcd may lose its quorum if this control plane restarts now" \
        "repair that control plane; the next run is tomorrow"
}

# --- the renewal ----------------------------------------------------------------------------------

# restore: kubeadm writes a key and its certificate one after the other; a killed run may have left a pair
# that does not match.
restore() {
    rm -rf "$BEFORE.new" "$BEFORE.done"
    [ -d "$BEFORE" ] || return 0
    note "restoring the certificates from before the renewal"
    cp -a "$BEFORE/." "$FOLDER/"
    rm -rf "$BEFORE"
}

# certs_renew NAME FILE: renews a certificate; false if it still ends when it did: kubeadm does not fail
# if it lacks the key of the CA. The version only keeps kubeadm from asking for the newest one on the
# internet.
certs_renew() {
    local before after
    before=$(end_of "$2") && kubeadm certs renew "$1" --config <(
        printf 'apiVersion: kubeadm.k8s.io/v1beta3\nkind: ClusterConfiguration\nkubernetesVersion: %s\n' "$version"
    ) >"$RUN_DIR/renew.log" 2>&1 </dev/null && after=$(end_of "$2") && [ "$after" -gt "$before" ]
}

# renew ROWS: renews certificates and notes the static pods to restart.
renew() {
    local name file pod
    {
        [ ! -e "$RESTART" ] || cat "$RESTART"
        awk '$3 != "-" { print $3 }' <<<"$1"
    } | awk '!seen[$0]++' >"$RESTART.new"
    mv -f "$RESTART.new" "$RESTART"
    install -d -m 700 "$BEFORE.new"
    (cd "$FOLDER" && cp -a --parents pki ./*.conf "$BEFORE.new/")
    # kubeadm never writes it, and a rotation may before the next run restores the others.
    rm -f "$BEFORE.new/pki/encryption.yaml"
    mv -T "$BEFORE.new" "$BEFORE"
    while read -r name file pod; do
        certs_renew "$name" "$file" || {
            cat "$RUN_DIR/renew.log" >&2
            restore
            lease delete --ignore-not-found >/dev/null 2>&1 || true
            fail certificate-not-renewed "kubeadm does not renew $name: $(tail -n 1 "$RUN_DIR/renew.log")" \
                "the cluster stops when it ends; the certificates are as before" \
                "fix the error, then run \`systemctl start nordmesh-certificates\` here"
        }
        note "renewed $name"
    done <<<"$1"
    mv -T "$BEFORE" "$BEFORE.done"
    rm -rf "$BEFORE.done"
}

# running POD: the IDs of the running containers of a static pod.
running() {
    local ids tasks
    ids=$(ctr --namespace k8s.io containers list --quiet \
        "labels.\"io.kubernetes.pod.namespace\"==kube-system,labels.\"io.kubernetes.container.name\"==$1") &&
        tasks=$(ctr --namespace k8s.io tasks list) || return
    awk 'NR == FNR { wanted[$1]; next } ($1 in wanted) && $3 == "RUNNING" { print $1 }' \
        <(printf '%s\n' "$ids") <(printf '%s\n' "$tasks")
}

# served PORT: the fingerprint of the certificate that a server of this machine presents.
served() {
    local answer
    answer=$(openssl s_client -connect "127.0.0.1:$1" </dev/null 2>/dev/null) || true
    openssl x509 -noout -fingerprint -sha256 <<<"$answer" 2>/dev/null
}

# works POD: whether a restarted pod serves its renewed certificate.
works() {
    local file port certificate expected
    case $1 in
    etcd) file=pki/etcd/server.crt port=2379 ;;
    kube-apiserver) file=pki/apiserver.crt port=6443 ;;
    *) return 0 ;;
    esac
    certificate=$(pem "$file") && expected=$(openssl x509 -noout -fingerprint -sha256 <<<"$certificate") &&
        [ "$(served "$port")" = "$expected" ] || return 1
    # Its health includes that of etcd.
    [ "$1" = etcd ] || kubectl --kubeconfig "$ADMIN_CONF" --server "https://127.0.0.1:$port" \
        --tls-server-name kubernetes --cache-dir "$RUN_DIR/kubectl" --request-timeout 5s get --raw /readyz >/dev/null 2>&1
}

# restart POD: ends the containers of a static pod; kubelet starts new ones.
restart() {
    local old id now deadline=$((SECONDS + POD_SECONDS))
    old=$(running "$1")
    for id in $old; do
        ctr --namespace k8s.io tasks kill --signal SIGTERM "$id" || true
    done
    until now=$(running "$1") && [ -n "$now" ] && ! grep -qxFf <(printf '%s\n' "${old:--}") <<<"$now" && works "$1"; do
        [ "$SECONDS" -lt "$deadline" ] || fail pod-not-restarted "$1 does not run with its new certificates after $POD_SECONDS s" \
            "the old ones end soon; this node keeps its turn, so that no other control plane restarts" \
            "see \`journalctl -u kubelet\` here and the pod's log below /var/log/pods, then run \`systemctl start nordmesh-certificates\`"
        sleep 1
    done
    note "restarted $1"
}

restart_pods() {
    local pod
    while read -r pod <&3; do
        restart "$pod"
    done 3<"$RESTART"
    rm -f "$RESTART"
}

# --- the report -----------------------------------------------------------------------------------

# report: records when each certificate ends; the checked time shows a timer that no longer runs.
report() {
    local list name file pod end ends=""
    list=$(rows "$CERTIFICATES"$'\n'"$AUTHORITIES")
    while read -r name file pod; do
        end=$(end_of "$file") || exit
        ends+="${ends:+, }\"$name\": \"$(date -u -d "@$end" +%FT%TZ)\""
    done <<<"$list"
    as_admin annotate node "$NODE" --overwrite \
        "nordmesh.io/certificates={\"checked\": \"$(date -u +%FT%TZ)\", \"ends\": {$ends}}" >/dev/null
}

# A control plane only once kubeadm has ended there.
[ -s "$ADMIN_CONF" ] && [ -s "$KUBELET_CERTIFICATE" ] || exit 0
mkdir -p "$RUN_DIR" "${LOG%/*}" "${RESTART%/*}"
subject=$(openssl x509 -noout -subject -nameopt multiline -in "$KUBELET_CERTIFICATE")
NODE=$(sed -n 's/^ *commonName *= system:node://p' <<<"$subject")
readonly NODE
if [ "${1-}" != report ]; then
    # As every nordmesh script on this node (lib.sh, single_run).
    exec 9>"$RUN_DIR/lock"
    flock --wait 600 9 || fail certificates-locked "another nordmesh script has run for ten minutes" \
        "two scripts on one node would undo each other's work" \
        "check the processes on the node; the next run is tomorrow"
    restore
    due=$(ending "$RENEW_DAYS")
    if [ -n "$due" ] || [ -s "$RESTART" ]; then
        urgent=$(ending "$URGENT_DAYS")
        version=$(kubeadm version -o short)
        take_turn
        require_others
        [ -z "$due" ] || renew "$due"
        restart_pods
        lease delete --ignore-not-found >/dev/null 2>&1 || true
    fi
fi
report
