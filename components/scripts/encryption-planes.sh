#!/usr/bin/env bash
# The keys of every control plane, for the scripts that use it after encryption.sh. Each API server's pod shows the
# names of its keys in its annotation, whichever machine it is on.

# set_planes: sets `planes` to a line `NODE KEYS` for each control plane of the cluster: the keys of its API server,
# in order and separated by commas; `unknown` if it does not show them. This node and each one that runs an API
# server is one, whatever its labels are.
set_planes() {
    local nodes pods
    if nodes=$(ask kubectl --kubeconfig "$ADMIN_CONF" get nodes -l node-role.kubernetes.io/control-plane -o \
        'jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}') &&
        pods=$(ask kubectl --kubeconfig "$ADMIN_CONF" -n kube-system get pods -l component=kube-apiserver -o \
            'jsonpath={range .items[*]}{.spec.nodeName} {.metadata.annotations.nordmesh\.io/settings}{"\n"}{end}'); then
        planes=$(
            { printf '%s\n' "$NODE_NAME" "$nodes" && printf '%s\n' "$pods"; } |
                awk 'NF && !($1 in keys) { keys[$1] = "unknown" } / keys / { keys[$1] = $NF }
                    END { for (node in keys) print node, keys[node] }' | sort
        )
    else
        fail no-answer-about-keys "the API server does not show which keys the control planes have" \
            "each must be able to read what the others write; nothing was changed" \
            "check that the API server runs on $NODE_NAME, then run \`pulumi up\` again"
    fi
}

# require_planes PATTERN WHAT: ends the script unless the keys of every control plane match an extended regular
# expression. WHAT: what the others do not do.
require_planes() {
    local others
    others=$(awk -v pattern="$1" '$2 !~ pattern { print $1 " has " $2 }' <<<"$planes" | paste -sd ';')
    [ -z "$others" ] || fail encryption-keys-differ "not every control plane $2 $WANTED_KEY: ${others//;/; }" \
        "an API server could not read the Secrets that another one writes; nothing was changed" \
        "make sure that every control plane of the cluster is in the stack file and runs, raise nordmesh:kubernetes.encryptionKey by one, and run \`pulumi up\` again"
}

# finish_interrupted: finishes the change of a run that was interrupted. It may have removed the old key, without
# having looked.
finish_interrupted() { apply_pods render_keys require_readable_secrets; }
