#!/usr/bin/env bash
# Runs on a control plane: waits until the node JOINED_NODE is Ready after a restart, and undoes the cordon of
# node-drain.sh. Reads: JOINED_NODE READY_SECONDS, ANYWAY (`true`: undo it even if the node is not Ready: it gets
# no pods until it is).
# It takes no lock: it only waits, and other scripts may run meanwhile.
# Uses: cordon.sh

# has_renewed SINCE: whether kubelet has renewed its lease since then: the API server reports a node as Ready
# for 40 s after it has stopped.
has_renewed() {
    local time
    time=$(kubectl --request-timeout 10s get lease "$JOINED_NODE" --namespace kube-node-lease \
        -o 'jsonpath={.spec.renewTime}') && [[ $time > $1 ]]
}

since=$(date -u +%Y-%m-%dT%H:%M:%S.%6N)
deadline=$((SECONDS + READY_SECONDS))
until has_renewed "$since" && is_ready "$JOINED_NODE"; do
    if [ "$SECONDS" -ge "$deadline" ]; then
        [ "$ANYWAY" != true ] || break
        fail node-not-back "$JOINED_NODE is not Ready $READY_SECONDS s after its restart" \
            "until it is, no other node is drained" \
            "look at \`journalctl -u kubelet -u containerd\` on $JOINED_NODE; it accepts pods again as soon as it is Ready"
    fi
    sleep 1
done
uncordon "$JOINED_NODE" || fail uncordon-failed "$JOINED_NODE is Ready, and cannot be uncordoned" \
    "it accepts no new pods" \
    "run \`kubectl uncordon $JOINED_NODE\`"
step "$JOINED_NODE accepts pods"
