#!/usr/bin/env bash
# Runs on a control plane: sets the labels and taints of the node JOINED_NODE in the API. Reads: JOINED_NODE,
# LABELS (lines `name=value`), TAINTS (lines `key=value:Effect`); both may be empty.
#
# Two annotations of the node record what this script has set. It removes a label or taint that is recorded
# and no longer wanted; all others, of a person or of Kubernetes, stay. All of it is one write, which the API
# server refuses if the node has changed since it was read: Kubernetes writes taints too.
# It takes no lock, and other scripts may run meanwhile.

readonly REGISTRATION_SECONDS=${REGISTRATION_SECONDS:-60}
readonly ATTEMPTS=10 ADMIN=/etc/kubernetes/admin.conf
readonly SET_LABELS=nordmesh.io/labels SET_TAINTS=nordmesh.io/taints
# The version, the two records, and the taints of a node.
readonly FIELDS='{.metadata.resourceVersion}{"\n"}{.metadata.annotations.nordmesh\.io/labels}{"\n"}{.metadata.annotations.nordmesh\.io/taints}{"\n"}{range .spec.taints[*]}{.key}|{.value}|{.effect}|{.timeAdded}{"\n"}{end}'

kube() { kubectl --kubeconfig "$ADMIN" --request-timeout 30s "$@"; }
# read_node: sets `node` to the fields of the node; to nothing if the cluster does not have it.
read_node() { node=$(ask kube get node "$JOINED_NODE" --ignore-not-found -o "jsonpath=$FIELDS"); }
# among WORD LIST: whether a word is in a list of words.
among() { [[ " $2 " == *" $1 "* ]]; }

# json_taint KEY VALUE EFFECT ADDED: prints a taint.
json_taint() {
    printf '{"key":"%s","value":"%s","effect":"%s"%s}' "$1" "$2" "$3" "${4:+,\"timeAdded\":\"$4\"}"
}

# wanted_patch: sets `patch` to the change from `node` to LABELS and TAINTS. Names and values need no quoting:
# the API server allows only letters, digits and `-_./` in them.
wanted_patch() {
    local version labels_before taints_before name value key effect added taint
    local -a labels=() taints=() label_names=() taint_names=()
    {
        IFS= read -r version
        IFS= read -r labels_before || true
        IFS= read -r taints_before || true
        while IFS='=' read -r name value; do
            [ -n "$name" ] || continue
            label_names+=("$name")
            labels+=("\"$name\":\"$value\"")
        done <<<"$LABELS"
        for name in $labels_before; do
            among "$name" "${label_names[*]-}" || labels+=("\"$name\":null")
        done
        while IFS=: read -r taint effect; do
            [ -n "$taint" ] || continue
            key=${taint%%=*}
            value=${taint:${#key}}
            taint_names+=("$key:$effect")
            taints+=("$(json_taint "$key" "${value#=}" "$effect" "")")
        done <<<"$TAINTS"
        while IFS='|' read -r key value effect added; do
            [ -n "$key" ] || continue
            ! among "$key:$effect" "$taints_before ${taint_names[*]-}" || continue
            taints+=("$(json_taint "$key" "$value" "$effect" "$added")")
        done
    } <<<"$node"
    local IFS=,
    local all_labels="${labels[*]-}" all_taints="${taints[*]-}"
    IFS=' '
    patch=$(printf '{"metadata":{"resourceVersion":"%s","labels":{%s},"annotations":{"%s":%s,"%s":%s}},"spec":{"taints":[%s]}}' \
        "$version" "$all_labels" "$SET_LABELS" "$(record "${label_names[*]-}")" \
        "$SET_TAINTS" "$(record "${taint_names[*]-}")" "$all_taints")
}

# record NAMES: prints the value of an annotation; null removes it.
record() { if [ -n "$1" ]; then printf '"%s"' "$1"; else printf null; fi; }

deadline=$((SECONDS + REGISTRATION_SECONDS))
for ((attempt = 1; ; attempt++)); do
    read_node || fail no-answer-about-node "the API server does not show the node $JOINED_NODE" \
        "without its answer, its labels and taints cannot be changed" \
        "check that the API server runs on $NODE_NAME (\`kubectl get nodes\` there), then run \`pulumi up\` again"
    if [ -z "$node" ]; then
        # A node that is gone has no labels to remove.
        [ -n "$LABELS$TAINTS" ] || exit 0
        [ "$SECONDS" -lt "$deadline" ] || fail node-not-labelled "$JOINED_NODE is not a node of the cluster" \
            "it joined and was removed since; it returns only when it joins again" \
            "run \`pulumi up --target-replace\` with the URN of $JOINED_NODE-join"
        sleep 1
        continue
    fi
    wanted_patch
    if error=$(kube patch node "$JOINED_NODE" --type merge --patch "$patch" 2>&1 >/dev/null); then break; fi
    [[ $error == *"the object has been modified"* && $attempt -lt $ATTEMPTS ]] ||
        fail labels-refused "the API server refuses the labels and taints of $JOINED_NODE: $error" \
            "nothing of them was changed" \
            "fix the error; then run \`pulumi up\` again"
    sleep 0.2
done
step "labels and taints of $JOINED_NODE are set"
