#!/usr/bin/env bash
# Runs on a control plane after istio-install.sh: moves the mesh to the installed revision, removes other
# revisions when nothing uses them any more, and checks the mesh's health. Reads: NODE_NAME REVISION, and
# NAMESPACES (separated by spaces), whose workloads it may restart. Each step reads the cluster first, so
# the next run continues a killed one.
# Uses: mesh.sh

# other_revisions: the other revisions that still have an istiod or a webhook.
other_revisions() {
    local revisions
    revisions=$(look_up -n "$SYSTEM" deployments,mutatingwebhookconfigurations,validatingwebhookconfigurations \
        --selector 'app in (istiod,sidecar-injector)' \
        -o 'jsonpath={range .items[*]}{.metadata.labels.istio\.io/rev}{"\n"}{end}') || return
    awk -v ours="$REVISION" '$0 != "" && $0 != ours' <<<"$revisions" | sort -u
}

# within SECONDS COMMAND...: whether the command succeeds in time; shows nothing.
within() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 1
    done
}

# prints_nothing COMMAND...: whether the command succeeds without output; prints its output.
prints_nothing() {
    local output
    output=$("$@") || return
    printf '%s' "$output"
    [ -z "$output" ]
}

# --- workloads -----------------------------------------------------------------------

# finished_jobs: a line "POD.NAMESPACE" for each pod of a Job whose work is done and whose proxy still runs.
finished_jobs() {
    local pods
    pods=$(look_up pods --all-namespaces --field-selector status.phase=Running \
        -o 'jsonpath={range .items[*]}{.metadata.name}.{.metadata.namespace}|{.metadata.ownerReferences[0].kind}|{range .status.containerStatuses[*]}{.name}={.state.terminated.reason};{end}{"\n"}{end}') || return
    awk -F '|' '
        $2 == "Job" {
            running = proxy = 0
            for (n = split($3, states, ";"); n > 0; n--) {
                if (states[n] ~ /^istio-proxy=/) proxy = 1
                else if (states[n] ~ /=$/) running = 1
            }
            if (proxy && !running) print $1
        }' <<<"$pods"
}

# outdated_workloads: a line "NAMESPACE KIND/NAME" for each workload with a proxy of another revision. A Job
# whose work is done does not need its proxy any more.
outdated_workloads() {
    local namespace pod gone kind owner status pods workload workloads="" finished
    finished=$(finished_jobs) || return
    pods=$(look_up pods --all-namespaces --field-selector status.phase!=Succeeded,status.phase!=Failed \
        -o 'jsonpath={range .items[*]}{.metadata.namespace}|{.metadata.name}|{.metadata.deletionTimestamp}|{.metadata.ownerReferences[0].kind}|{.metadata.ownerReferences[0].name}|{.metadata.annotations.sidecar\.istio\.io/status}{"\n"}{end}') || return
    while IFS='|' read -r namespace pod gone kind owner status; do
        if [ -z "$status" ] || [ -n "$gone" ] || [[ $status == *"\"revision\":\"$REVISION\""* ]]; then
            continue
        fi
        [[ $'\n'$finished$'\n' != *$'\n'"$pod.$namespace"$'\n'* ]] || continue
        workload=$kind/$owner
        case $kind in
        ReplicaSet) workload=$(owner_of "$namespace" "$owner") || return ;;
        '') workload=Pod/$pod ;;
        esac
        workloads+="$namespace $workload"$'\n'
    done <<<"$pods"
    sort -u <<<"${workloads%$'\n'}"
}

# owner_of NAMESPACE REPLICASET: the owner of a ReplicaSet; the ReplicaSet itself if it has none, or if it
# was deleted before its pods.
owner_of() {
    local owner
    owner=$(look_up -n "$1" replicaset "$2" --ignore-not-found \
        -o 'jsonpath={.metadata.ownerReferences[0].kind}/{.metadata.ownerReferences[0].name}') || return
    case $owner in '' | /) echo "ReplicaSet/$2" ;; *) echo "$owner" ;; esac
}

# budgets_unmet NAMESPACE: the disruption budgets that require more healthy pods than they have.
budgets_unmet() {
    local budgets
    budgets=$(look_up -n "$1" poddisruptionbudgets \
        -o 'jsonpath={range .items[*]}{.metadata.name} {.status.currentHealthy} {.status.desiredHealthy}{"\n"}{end}') || return
    awk '$2 < $3 { print "  " $1 " has " $2 " healthy pods and requires " $3 }' <<<"$budgets"
}

# left NAMESPACE KIND/NAME REASON FIX: warns that a workload cannot be restarted here.
left() { warn "$2 of $1 keeps its proxy until its owner acts: $3; $4"; }

# restart NAMESPACE KIND/NAME: restarts a workload by its own update strategy. One that has too few ready
# pods already gets a minute, and does not hold up the others.
restart() {
    local current replicas paused strategy ready desired
    current=$(ask look_up -n "$1" "$2" --ignore-not-found \
        -o 'jsonpath={.kind}|{.spec.replicas}|{.spec.paused}|{.spec.updateStrategy.type}|{.status.readyReplicas}{.status.numberReady}|{.status.desiredNumberScheduled}') ||
        no_answer "how many replicas $2 of $1 has"
    # Its owner may have deleted it since.
    [ -n "$current" ] || return 0
    IFS='|' read -r _ replicas paused strategy ready desired <<<"$current"
    if [ "$paused" = true ]; then
        left "$1" "$2" "it is paused" "run \`kubectl -n $1 rollout resume $2\`, then \`pulumi up\` again"
        return
    fi
    if [ "$strategy" = OnDelete ]; then
        left "$1" "$2" "its update strategy is OnDelete" "delete its pods one by one, then run \`pulumi up\` again"
        return
    fi
    [ "$replicas" != 1 ] ||
        warn "$2 of $1 has one replica: requests may fail while it is replaced; use two or more"
    if ! budgets_met "$1"; then
        left "$1" "$2" "a disruption budget is not met:${unmet[$1]}" "make its pods ready"
        return
    fi
    step "restart $2 of $1"
    logged istio-restart kubectl -n "$1" rollout restart "$2"
    if [ "${ready:-0}" -ge "${replicas:-${desired:-0}}" ]; then
        logged istio-restart kubectl -n "$1" rollout status "$2" --timeout=600s
    elif ! kubectl -n "$1" rollout status "$2" --timeout=60s >/dev/null 2>&1; then
        left "$1" "$2" "it had ${ready:-0} of ${replicas:-$desired} pods ready before, and is not ready now" \
            "see \`kubectl -n $1 describe $2\`"
    fi
}

# budgets_met NAMESPACE: waits until the disruption budgets are met, once for each namespace that waits in
# vain; keeps those that are not in `unmet`.
budgets_met() {
    [ -z "${unmet[$1]-}" ] || return 1
    within 300 prints_nothing budgets_unmet "$1" && return
    unmet[$1]=$(ask budgets_unmet "$1") || no_answer "which disruption budgets $1 has"
    [ -z "${unmet[$1]}" ]
}

restart_workloads() {
    local namespace workload workloads
    local -A unmet=()
    workloads=$(ask outdated_workloads) || no_answer "which workloads have a proxy of another revision"
    while read -r namespace workload; do
        [[ " $NAMESPACES " == *" $namespace "* ]] || continue
        case $workload in
        Deployment/* | StatefulSet/* | DaemonSet/*) restart "$namespace" "$workload" ;;
        esac
    done <<<"$workloads"
}

# --- proxies and revisions -----------------------------------------------------------

# outdated_proxies: the proxies that get their configuration from another revision, and still need it.
outdated_proxies() {
    local proxies finished
    finished=$(finished_jobs) || return
    proxies=$(istioctl proxy-status) || return
    awk -v ours="istiod-$REVISION-" '
        NR == FNR { finished[$1]; next }
        FNR > 1 && index($(NF - 1), ours) != 1 && !($1 in finished) { print $1 }
    ' <(printf '%s\n' "$finished") - <<<"$proxies"
}
all_moved() { prints_nothing outdated_workloads && prints_nothing outdated_proxies; }

remove_others() {
    local old workloads proxies
    within 60 all_moved || true
    workloads=$(ask outdated_workloads) || no_answer "which workloads have a proxy of another revision"
    proxies=$(ask outdated_proxies) || no_answer "which proxies another revision serves"
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

# unchecked WHAT: warns that something could not be checked, with the error that `look` kept.
unchecked() { warn "$1 could not be checked: $(tail -n 1 "$RUN_DIR/look")"; }

# look COMMAND...: like ask, but keeps the error of a failure.
look() { ask "$@" 2>"$RUN_DIR/look"; }

# remaining SECONDS COMMAND...: what the command still prints after that time; false if it fails.
remaining() {
    local seconds=$1
    shift
    within "$seconds" prints_nothing "$@" || "$@" 2>"$RUN_DIR/look"
}

# short_of_pods: the scaled workloads of the mesh with too few ready pods.
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

# unreachable_proxies: the proxies, of sidecars and gateways, that changes do not reach: a line "unconnected
# NAME" for one without a connection to istiod, "stale NAME" for one that has not accepted the last change.
# Proxies connect to a new istiod one by one. A proxy that hangs is STALE first, and unconnected when istiod
# closes its connection.
unreachable_proxies() {
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

# names_of KIND LINES: the names in the lines of a kind, separated by spaces.
names_of() { sed -n "s/^$1 //p" <<<"$2" | tr '\n' ' ' | sed 's/ $//'; }

# warn_if_starved POD NODE RESTARTS REASON: warns if the metrics of an istiod show a lack of CPU or memory.
warn_if_starved() {
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

# analyze: the output of istioctl analyze, which exits with 79 if it has findings.
analyze() {
    local status=0
    istioctl analyze --all-namespaces || status=$?
    [ "$status" = 79 ] || return "$status"
}

# analysis: warns of the findings of istioctl analyze. It ignores the pods of istio-system, and so reports
# every Gateway whose gateway runs there (istio/istio#38148): such a finding is checked in the cluster.
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
    if found=$(remaining 90 short_of_pods); then
        while read -r line; do
            [ -z "$line" ] || warn "$line: add nodes, or lower its requests or replicas.min"
        done <<<"$found"
    else
        unchecked "whether the mesh has all its pods"
    fi
    if ! found=$(remaining 60 unreachable_proxies); then
        unchecked "whether istiod reaches all proxies"
    fi
    line=$(names_of unconnected "$found")
    [ -z "$line" ] || warn "these proxies have no connection to istiod, so no change reaches them: $line; see the logs of their container istio-proxy, and raise istio.pilot.requests.cpu and limits if istiod is starved"
    line=$(names_of stale "$found")
    [ -z "$line" ] || warn "these proxies are STALE because they or istiod lack resources: $line; raise istio.pilot.requests.cpu or istio.pilot.replicas.min, or the proxies' limits"
    analysis
    if ! found=$(look look_up -n "$SYSTEM" pods --selector app=istiod \
        -o 'jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.status.containerStatuses[0].restartCount} {.status.containerStatuses[0].lastState.terminated.reason}{"\n"}{end}'); then
        unchecked "whether istiod is starved"
        return 0
    fi
    while read -r pod node restarts reason; do
        [ -z "$pod" ] || warn_if_starved "$pod" "$node" "$restarts" "$reason"
    done <<<"$found"
}

single_run
others=$(ask other_revisions) || no_answer "which revisions of the mesh there are"
if [ -n "$others" ]; then
    step "move the mesh to revision $REVISION"
    # From now on, every new pod has a proxy of this revision.
    logged istio-tag istioctl tag set default --revision "$REVISION" --overwrite
    restart_workloads
    remove_others "$others"
fi
health
step "mesh serves with revision $REVISION"
