#!/usr/bin/env bash
# Runs on a control plane after istio-install.sh: moves the mesh to the installed
# revision, removes other revisions when nothing uses them any more, and looks at
# the mesh's health. Reads: NODE_NAME REVISION, and NAMESPACES (separated by
# spaces), whose workloads it may restart. Each step looks at what is there, so a
# run that was killed is gone on with.
# Uses: mesh.sh

# other_revisions: those of which an istiod or a webhook is left.
other_revisions() {
    local revisions
    revisions=$(look_up -n "$SYSTEM" deployments,mutatingwebhookconfigurations,validatingwebhookconfigurations \
        --selector 'app in (istiod,sidecar-injector)' \
        -o 'jsonpath={range .items[*]}{.metadata.labels.istio\.io/rev}{"\n"}{end}') || return
    awk -v ours="$REVISION" '$0 != "" && $0 != ours' <<<"$revisions" | sort -u
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

# none COMMAND...: whether the command succeeds and prints nothing; prints what it prints.
none() {
    local found
    found=$("$@") || return
    printf '%s' "$found"
    [ -z "$found" ]
}

# --- workloads -----------------------------------------------------------------------

# behind: a line "NAMESPACE KIND/NAME" for each workload that has a proxy of another revision.
behind() {
    local namespace pod gone kind owner status pods workload workloads=""
    pods=$(look_up pods --all-namespaces --field-selector status.phase!=Succeeded,status.phase!=Failed \
        -o 'jsonpath={range .items[*]}{.metadata.namespace}|{.metadata.name}|{.metadata.deletionTimestamp}|{.metadata.ownerReferences[0].kind}|{.metadata.ownerReferences[0].name}|{.metadata.annotations.sidecar\.istio\.io/status}{"\n"}{end}') || return
    while IFS='|' read -r namespace pod gone kind owner status; do
        if [ -z "$status" ] || [ -n "$gone" ] || [[ $status == *"\"revision\":\"$REVISION\""* ]]; then
            continue
        fi
        workload=$kind/$owner
        case $kind in
        ReplicaSet) workload=$(owner_of "$namespace" "$owner") || return ;;
        '') workload=Pod/$pod ;;
        esac
        workloads+="$namespace $workload"$'\n'
    done <<<"$pods"
    sort -u <<<"${workloads%$'\n'}"
}

# owner_of NAMESPACE REPLICASET: what the ReplicaSet belongs to; itself, if nothing, or if it is gone
# before its pods.
owner_of() {
    local owner
    owner=$(look_up -n "$1" replicaset "$2" --ignore-not-found \
        -o 'jsonpath={.metadata.ownerReferences[0].kind}/{.metadata.ownerReferences[0].name}') || return
    case $owner in '' | /) echo "ReplicaSet/$2" ;; *) echo "$owner" ;; esac
}

# budgets_unmet NAMESPACE: the disruption budgets that want more healthy pods than there are.
budgets_unmet() {
    local budgets
    budgets=$(look_up -n "$1" poddisruptionbudgets \
        -o 'jsonpath={range .items[*]}{.metadata.name} {.status.currentHealthy} {.status.desiredHealthy}{"\n"}{end}') || return
    awk '$2 < $3 { print "  " $1 " has " $2 " healthy pods and wants " $3 }' <<<"$budgets"
}

# restart NAMESPACE KIND/NAME: one workload, by its own rules for an update.
restart() {
    local has
    has=$(ask look_up -n "$1" "$2" --ignore-not-found -o 'jsonpath={.kind} {.spec.replicas}') ||
        no_answer "how many replicas $2 of $1 has"
    # Its owner may have removed it since.
    [ -n "$has" ] || return 0
    [ "${has#* }" != 1 ] ||
        warn "$2 of $1 has one replica: requests to it may fail while it is replaced; two would do"
    until_true 300 "the healthy pods that the disruption budgets of $1 require" none budgets_unmet "$1"
    step "restart $2 of $1"
    logged istio-restart kubectl -n "$1" rollout restart "$2"
    logged istio-restart kubectl -n "$1" rollout status "$2" --timeout=600s
}

restart_workloads() {
    local namespace workload workloads
    workloads=$(ask behind) || no_answer "which workloads have a proxy of another revision"
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
    local proxies
    proxies=$(istioctl proxy-status) || return
    awk -v ours="istiod-$REVISION-" 'NR > 1 && index($(NF - 1), ours) != 1 { print $1 }' <<<"$proxies"
}
all_moved() { none behind && none proxies_behind; }

remove_others() {
    local old workloads proxies
    within 60 all_moved || true
    workloads=$(ask behind) || no_answer "which workloads have a proxy of another revision"
    proxies=$(ask proxies_behind) || no_answer "which proxies another revision serves"
    if [ -n "$workloads$proxies" ]; then
        printf '%s\n' "$workloads" "$proxies" | sed -n '/./s/^/  /p' >&2
        fail proxies-outdated "these workloads still have proxies of another revision" \
            "that revision was not removed: their proxies would lose their connection. They are in no namespace of nordmesh:mesh.namespaces, or have no controller that can restart them" \
            "restart or delete them yourself, or add their namespace; then run \`pulumi up\` again"
    fi
    for old in $1; do
        step "remove revision $old"
        logged istio-remove istioctl uninstall --revision "$old" --skip-confirmation
        logged istio-remove kubectl -n "$SYSTEM" delete istiooperators --ignore-not-found \
            "installed-state-nordmesh-$old" "installed-state-nordmesh-gateways-$old"
    done
}

# --- health --------------------------------------------------------------------------

# unchecked WHAT: warns of a look that failed, with the reason that `look` has kept.
unchecked() { warn "$1 could not be checked: $(tail -n 1 "$RUN_DIR/look")"; }

# look COMMAND...: as ask, but keeps the reason of a failure.
look() { ask "$@" 2>"$RUN_DIR/look"; }

# remains SECONDS COMMAND...: what the command still finds after so long; false if it cannot look.
remains() {
    local seconds=$1
    shift
    within "$seconds" none "$@" || "$@" 2>"$RUN_DIR/look"
}

# short_of_pods: the scaled workloads of the mesh with fewer pods ready than they should have.
short_of_pods() {
    local autoscalers name least ready
    autoscalers=$(look_up -n "$SYSTEM" horizontalpodautoscalers \
        -o 'jsonpath={range .items[*]}{.spec.scaleTargetRef.name} {.spec.minReplicas}{"\n"}{end}') || return
    while read -r name least; do
        [ -n "$name" ] || continue
        ready=$(look_up -n "$SYSTEM" deployment "$name" --ignore-not-found -o 'jsonpath={.status.readyReplicas}') || return
        [ "${ready:-0}" -ge "$least" ] || echo "$name has ${ready:-0} of $least pods ready"
    done <<<"$autoscalers"
}

# out_of_touch: the proxies, of sidecars and gateways, that no change reaches: a line "unconnected
# NAME" where one has no istiod, "stale NAME" where it has not taken the last change. A new istiod gets
# them one by one. One that hangs is STALE first, and unconnected as soon as istiod gives it up.
out_of_touch() {
    local proxies pods
    proxies=$(istioctl proxy-status) || return
    pods=$(look_up pods --all-namespaces --field-selector status.phase=Running \
        -o 'jsonpath={range .items[*]}{.metadata.name}.{.metadata.namespace}|{.metadata.deletionTimestamp}|{.spec.containers[*].name}{"\n"}{end}') || return
    awk '
        NR == FNR { connected[$1]; if (/ STALE /) print "stale " $1; next }
        { split($0, pod, "|") }
        pod[2] == "" && pod[3] ~ /(^| )istio-proxy( |$)/ && !(pod[1] in connected) { print "unconnected " pod[1] }
    ' <(printf '%s\n' "$proxies") - <<<"$pods"
}

# those KIND LINES: the names in the lines of one kind, separated by spaces.
those() { sed -n "s/^$1 //p" <<<"$2" | tr '\n' ' ' | sed 's/ $//'; }

# starved POD NODE RESTARTS REASON: says what istiod's own metrics show of a lack of CPU or memory.
starved() {
    local metrics throttled line
    [ "${3:-0}" = 0 ] || warn "$1 was restarted $3 times ($4): raise istio.pilot.requests and limits, memory first if it was OOMKilled"
    if metrics=$(look look_up --raw "/api/v1/namespaces/$SYSTEM/pods/$1:15014/proxy/metrics"); then
        line=$(awk '
            /^pilot_proxy_convergence_time_bucket\{le="1"\}/ { fast = $2 }
            /^pilot_proxy_convergence_time_count/ { all = $2 }
            END { if (all >= 20 && fast / all < 0.99) printf "%d of %d changes took more than 1 s to reach the proxies", all - fast, all }
        ' <<<"$metrics")
        [ -z "$line" ] || warn "$1: $line: raise istio.pilot.requests.cpu, or istio.pilot.replicas.min"
        while read -r line; do
            [ -z "$line" ] || warn "$1: $line: see \`kubectl -n $SYSTEM logs $1\`"
        done <<<"$(awk '/^(pilot_total_xds_internal_errors|pilot_total_xds_rejects|pilot_xds_push_context_errors)/ && $2 > 0 { print $1 " is " $2 }' <<<"$metrics")"
    else
        unchecked "the metrics of $1"
    fi
    if metrics=$(look look_up --raw "/api/v1/nodes/$2/proxy/metrics/cadvisor"); then
        throttled=$(awk -v pod="pod=\"$1\"" '
            index($0, pod) && /container="discovery"/ && /^container_cpu_cfs_periods_total/ { all = $2 }
            index($0, pod) && /container="discovery"/ && /^container_cpu_cfs_throttled_periods_total/ { held = $2 }
            END { if (all >= 100 && held / all > 0.1) printf "%d", 100 * held / all }' <<<"$metrics")
        [ -z "$throttled" ] || warn "$1 is held back by its CPU limit $throttled% of the time: raise istio.pilot.limits.cpu"
    else
        unchecked "whether its CPU limit holds $1 back"
    fi
}

# analyze: the lines of istioctl analyze, which ends with 79 if it has found something.
analyze() {
    local status=0
    istioctl analyze --all-namespaces || status=$?
    [ "$status" = 79 ] || return "$status"
}

# analysis: what istioctl analyze finds. It leaves out the pods of istio-system, and so misses each
# gateway that a Gateway selects there (istio/istio#38148): such a line is held against the cluster.
analysis() {
    local line lines pods
    lines=$(look analyze) || unchecked "what istioctl analyze finds"
    while read -r line; do
        [[ $line =~ ^(Error|Warning) ]] || continue
        if [[ $line =~ Referenced\ selector\ not\ found:\ \"([^\"]+)\" ]]; then
            if ! pods=$(look look_up pods --all-namespaces --selector "${BASH_REMATCH[1]}" -o name); then
                unchecked "whether any pod has ${BASH_REMATCH[1]}"
                continue
            fi
            [ -z "$pods" ] || continue
        fi
        warn "istioctl analyze: $line"
    done <<<"$lines"
}

health() {
    local pod node restarts reason line found
    step "health of the mesh"
    if found=$(remains 90 short_of_pods); then
        while read -r line; do
            [ -z "$line" ] || warn "$line: add nodes, or lower its requests or replicas.min"
        done <<<"$found"
    else
        unchecked "whether the mesh has all its pods"
    fi
    if ! found=$(remains 60 out_of_touch); then
        unchecked "whether istiod reaches all proxies"
    fi
    line=$(those unconnected "$found")
    [ -z "$line" ] || warn "these proxies have no connection to istiod, so no change reaches them: $line; see the logs of their container istio-proxy, and raise istio.pilot.requests.cpu and limits if istiod is starved"
    line=$(those stale "$found")
    [ -z "$line" ] || warn "these proxies are STALE, so istiod is starved or they are: $line; raise istio.pilot.requests.cpu or istio.pilot.replicas.min, or the proxies' limits"
    analysis
    if ! found=$(look look_up -n "$SYSTEM" pods --selector app=istiod \
        -o 'jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].lastState.terminated.reason}{"\n"}{end}'); then
        unchecked "whether istiod is starved"
        return 0
    fi
    while read -r pod node restarts reason; do
        [ -z "$pod" ] || starved "$pod" "$node" "$restarts" "$reason"
    done <<<"$found"
}

single_run
others=$(ask other_revisions) || no_answer "which revisions of the mesh there are"
if [ -n "$others" ]; then
    step "move the mesh to revision $REVISION"
    # From now on a pod that is made anew has a proxy of this revision.
    logged istio-tag istioctl tag set default --revision "$REVISION" --overwrite
    restart_workloads
    remove_others "$others"
fi
health
step "mesh serves with revision $REVISION"
