#!/usr/bin/env bash
# Runs on a control plane after istio-install.sh: moves the mesh to the installed
# revision, removes other revisions when nothing uses them any more, and looks at
# the mesh's health. Reads: NODE_NAME REVISION, and NAMESPACES (separated by
# spaces), whose workloads it may restart. Each step looks at what is there, so a
# run that was killed is gone on with.

export KUBECONFIG=/etc/kubernetes/admin.conf
readonly SYSTEM=istio-system

# other_revisions: those of which an istiod or a webhook is left.
other_revisions() {
    kubectl -n "$SYSTEM" get deployments,mutatingwebhookconfigurations,validatingwebhookconfigurations \
        --selector 'app in (istiod,sidecar-injector)' \
        -o 'jsonpath={range .items[*]}{.metadata.labels.istio\.io/rev}{"\n"}{end}' |
        { grep -vxF "$REVISION" || true; } | sort -u
}

# within SECONDS COMMAND...: whether the command succeeds in time; nothing is shown.
within() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 1
    done
}

# --- workloads -----------------------------------------------------------------------

# behind: a line "NAMESPACE KIND/NAME" for each workload that has a proxy of another revision.
behind() {
    local namespace pod gone kind owner status
    kubectl get pods --all-namespaces --field-selector status.phase!=Succeeded,status.phase!=Failed \
        -o 'jsonpath={range .items[*]}{.metadata.namespace}|{.metadata.name}|{.metadata.deletionTimestamp}|{.metadata.ownerReferences[0].kind}|{.metadata.ownerReferences[0].name}|{.metadata.annotations.sidecar\.istio\.io/status}{"\n"}{end}' |
        while IFS='|' read -r namespace pod gone kind owner status; do
            if [ -z "$status" ] || [ -n "$gone" ] || [[ $status == *"\"revision\":\"$REVISION\""* ]]; then
                continue
            fi
            case $kind in
            ReplicaSet) printf '%s %s\n' "$namespace" "$(owner_of "$namespace" "$owner")" ;;
            '') printf '%s Pod/%s\n' "$namespace" "$pod" ;;
            *) printf '%s %s/%s\n' "$namespace" "$kind" "$owner" ;;
            esac
        done | sort -u
}

# owner_of NAMESPACE REPLICASET: what the ReplicaSet belongs to, or itself.
owner_of() {
    local owner
    owner=$(kubectl -n "$1" get replicaset "$2" \
        -o 'jsonpath={.metadata.ownerReferences[0].kind}/{.metadata.ownerReferences[0].name}')
    if [ "$owner" = / ]; then echo "ReplicaSet/$2"; else echo "$owner"; fi
}

# budgets_met NAMESPACE: whether as many pods are healthy as its disruption budgets want.
budgets_met() {
    ! kubectl -n "$1" get poddisruptionbudgets \
        -o 'jsonpath={range .items[*]}{.metadata.name} {.status.currentHealthy} {.status.desiredHealthy}{"\n"}{end}' |
        awk '$2 < $3 { print "  " $1 " has " $2 " healthy pods and wants " $3 }' | grep .
}

# restart NAMESPACE KIND/NAME: one workload, by its own rules for an update.
restart() {
    local replicas
    replicas=$(kubectl -n "$1" get "$2" -o 'jsonpath={.spec.replicas}')
    [ "$replicas" != 1 ] ||
        warn "$2 of $1 has one replica: requests to it may fail while it is replaced; two would do"
    until_true 300 "the health that the disruption budgets of $1 want" budgets_met "$1"
    step "restart $2 of $1"
    logged istio-restart kubectl -n "$1" rollout restart "$2"
    logged istio-restart kubectl -n "$1" rollout status "$2" --timeout=600s
}

restart_workloads() {
    local namespace workload workloads
    workloads=$(behind)
    while read -r namespace workload; do
        [[ " $NAMESPACES " == *" $namespace "* ]] || continue
        case $workload in
        Deployment/* | StatefulSet/* | DaemonSet/*) restart "$namespace" "$workload" ;;
        esac
    done <<<"$workloads"
}

# --- proxies and revisions -----------------------------------------------------------

# proxies_behind: the proxies whose configuration comes from another revision.
proxies_behind() {
    istioctl proxy-status | awk -v ours="istiod-$REVISION-" 'NR > 1 && index($(NF - 1), ours) != 1 { print $1 }'
}
all_moved() {
    local workloads proxies
    workloads=$(behind) && proxies=$(proxies_behind) && [ -z "$workloads$proxies" ]
}

remove_others() {
    local old left
    if ! within 60 all_moved; then
        left=$({ behind; proxies_behind; } | sed 's/^/  /')
        printf '%s\n' "$left" >&2
        fail "these workloads still have proxies of another revision" \
            "it was not removed, since they would be cut off; they are in no namespace of nordmesh:mesh.namespaces, or nothing restarts them" \
            "restart or delete them yourself, or add their namespace; then run \`pulumi up\` again"
    fi
    for old in $(other_revisions); do
        step "remove revision $old"
        logged istio-remove istioctl uninstall --revision "$old" --skip-confirmation
        logged istio-remove kubectl -n "$SYSTEM" delete istiooperators --ignore-not-found \
            "installed-state-nordmesh-$old" "installed-state-nordmesh-gateways-$old"
    done
}

# --- health --------------------------------------------------------------------------

scaled() {
    ! kubectl -n "$SYSTEM" get horizontalpodautoscalers \
        -o 'jsonpath={range .items[*]}{.spec.scaleTargetRef.name} {.spec.minReplicas}{"\n"}{end}' |
        while read -r name least; do
            ready=$(kubectl -n "$SYSTEM" get deployment "$name" -o 'jsonpath={.status.readyReplicas}')
            [ "${ready:-0}" -ge "$least" ] || echo "$name has ${ready:-0} of $least pods ready"
        done | grep .
}

# unconnected: the proxies, of sidecars and gateways, that have no istiod. A new istiod gets them one
# by one, and one that is starved takes long for it.
unconnected() {
    local proxies
    proxies=$(istioctl proxy-status) || return
    kubectl get pods --all-namespaces --field-selector status.phase=Running \
        -o 'jsonpath={range .items[*]}{.metadata.name}.{.metadata.namespace}|{.metadata.deletionTimestamp}|{.spec.containers[*].name}{"\n"}{end}' |
        awk '
            NR == FNR { connected[$1]; next }
            { split($0, pod, "|") }
            pod[2] == "" && pod[3] ~ /(^| )istio-proxy( |$)/ && !(pod[1] in connected) { print pod[1] }
        ' <(printf '%s\n' "$proxies") -
}
all_connected() {
    local proxies
    proxies=$(unconnected) && [ -z "$proxies" ]
}

stale() { istioctl proxy-status | awk 'NR > 1 && / STALE / { print $1 }'; }
none_stale() { [ -z "$(stale)" ]; }

# starved POD NODE RESTARTS REASON: says what istiod's own figures show of a lack of CPU or memory.
starved() {
    local metrics throttled
    [ "${3:-0}" = 0 ] || warn "$1 was restarted $3 times ($4): raise istio.pilot.requests and limits, memory first if it was OOMKilled"
    metrics=$(kubectl get --raw "/api/v1/namespaces/$SYSTEM/pods/$1:15014/proxy/metrics" 2>/dev/null) || return 0
    awk '
        /^pilot_proxy_convergence_time_bucket\{le="1"\}/ { fast = $2 }
        /^pilot_proxy_convergence_time_count/ { all = $2 }
        END { if (all >= 20 && fast / all < 0.99) printf "%d of %d changes took more than 1 s to reach the proxies", all - fast, all }
    ' <<<"$metrics" | while read -r line; do
        warn "$1: $line: raise istio.pilot.requests.cpu, or istio.pilot.replicas.min"
    done
    awk '/^(pilot_total_xds_internal_errors|pilot_total_xds_rejects|pilot_xds_push_context_errors)/ && $2 > 0 { print $1 " is " $2 }' \
        <<<"$metrics" | while read -r line; do
        warn "$1: $line: see \`kubectl -n $SYSTEM logs $1\`"
    done
    throttled=$(kubectl get --raw "/api/v1/nodes/$2/proxy/metrics/cadvisor" 2>/dev/null | awk -v pod="pod=\"$1\"" '
        index($0, pod) && /container="discovery"/ && /^container_cpu_cfs_periods_total/ { all = $2 }
        index($0, pod) && /container="discovery"/ && /^container_cpu_cfs_throttled_periods_total/ { held = $2 }
        END { if (all >= 100 && held / all > 0.1) printf "%d", 100 * held / all }') || return 0
    [ -z "$throttled" ] || warn "$1 is held back by its CPU limit $throttled% of the time: raise istio.pilot.limits.cpu"
}

# analysis: what istioctl analyze finds. It leaves out the pods of istio-system, and so misses each
# gateway that a Gateway selects there (istio/istio#38148): such a line is held against the cluster.
analysis() {
    local line
    { istioctl analyze --all-namespaces 2>/dev/null || true; } | while read -r line; do
        [[ $line =~ ^(Error|Warning) ]] || continue
        if [[ $line =~ Referenced\ selector\ not\ found:\ \"([^\"]+)\" ]] &&
            [ -n "$(kubectl get pods --all-namespaces --selector "${BASH_REMATCH[1]}" -o name)" ]; then
            continue
        fi
        warn "istioctl analyze: $line"
    done
}

health() {
    local pod node restarts reason line
    step "health of the mesh"
    within 90 scaled || scaled 2>&1 | while read -r line; do
        warn "$line: add nodes, or lower its requests or replicas.min"
    done
    within 60 all_connected || warn "these proxies have no connection to istiod, so no change reaches them: $(unconnected | xargs); see the logs of their container istio-proxy, and raise istio.pilot.requests.cpu and limits if istiod is starved"
    within 30 none_stale || warn "these proxies are STALE, so istiod is starved or they are: $(stale | xargs); raise istio.pilot.requests.cpu or istio.pilot.replicas.min, or the proxies' limits"
    analysis
    kubectl -n "$SYSTEM" get pods --selector app=istiod \
        -o 'jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].lastState.terminated.reason}{"\n"}{end}' |
        while read -r pod node restarts reason; do starved "$pod" "$node" "$restarts" "$reason"; done
}

single_run
if [ -n "$(other_revisions)" ]; then
    step "move the mesh to revision $REVISION"
    # From now on a pod that is made anew has a proxy of this revision.
    logged istio-tag istioctl tag set default --revision "$REVISION" --overwrite
    restart_workloads
    remove_others
fi
health
step "mesh serves with revision $REVISION"
