#!/usr/bin/env bash
# The node and the cluster of this machine, for the scripts that use it; lib.sh is before it. Reads:
# NODE_NAME ENDPOINT.

readonly KUBELET_CONF=/etc/kubernetes/kubelet.conf
readonly ADMIN_CONF=/etc/kubernetes/admin.conf
readonly ANSWER_LOG=$LOG_DIR/node-answer.log
# shellcheck disable=SC2034 # for the scripts that use this
{
    # How long to wait for the API server to answer.
    readonly API_SECONDS=${API_SECONDS:-120}
    # Exist from the first change by `kubeadm init`, or by the join of a control plane.
    readonly STARTED=/etc/kubernetes/nordmesh-started
    readonly JOINING=/etc/kubernetes/nordmesh-joining
    # Written by the last step of kubeadm-init.sh and of kubeadm-join.sh.
    readonly INITIALISED_MARK=/etc/kubernetes/nordmesh-initialised.yaml
    readonly JOINED_MARK=/etc/kubernetes/nordmesh-joined.yaml
    # The keys that encrypt Secrets in etcd.
    readonly ENCRYPTION=/etc/kubernetes/pki/encryption.yaml
}

# as_admin ARGUMENT...: runs kubectl with the administrator's kubeconfig of this control plane.
as_admin() { kubectl --kubeconfig "$ADMIN_CONF" --request-timeout 30s "$@"; }

# kubelet_certificate: prints kubelet's client certificate, PEM; nothing if it does not have one yet.
kubelet_certificate() {
    local rotated=/var/lib/kubelet/pki/kubelet-client-current.pem
    [ -s "$KUBELET_CONF" ] || return 0
    if [ -s "$rotated" ]; then
        cat "$rotated"
    else
        sed -n 's/^ *client-certificate-data: //p' "$KUBELET_CONF" | base64 -d 2>/dev/null || true
    fi
}

# current_node: the name of this machine's node; nothing if the machine is not a node, or if a killed run
# left a partial file.
current_node() {
    local certificate subject
    certificate=$(kubelet_certificate)
    [ -n "$certificate" ] || return 0
    command -v openssl >/dev/null || fail no-openssl "openssl is not installed on this machine" \
        "the machine is a node of a cluster, and openssl reads its name from its certificate" \
        "run \`apt-get install openssl\` there, then run \`pulumi up\` again"
    subject=$(openssl x509 -noout -subject -nameopt multiline <<<"$certificate" 2>/dev/null) || return 0
    sed -n 's/^ *commonName *= system:node://p' <<<"$subject"
}

# current_endpoint: the name of the API server of this machine's cluster; nothing without a cluster.
current_endpoint() {
    local file=$KUBELET_CONF
    [ -s "$file" ] || file=$ADMIN_CONF
    [ -s "$file" ] || return 0
    sed -n 's,^ *server: https://\(.*\):[0-9]*$,\1,p' "$file"
}

# other_owner: the node and the cluster of this machine if they are not NODE_NAME and ENDPOINT; nothing
# otherwise.
other_owner() {
    local node endpoint
    # A failure does not end a command substitution by itself.
    node=$(current_node) || return
    endpoint=$(current_endpoint) || return
    [ "${node:-$NODE_NAME}" = "$NODE_NAME" ] && [ "${endpoint:-$ENDPOINT}" = "$ENDPOINT" ] && return 0
    printf '%s of the cluster at %s' "${node:-unknown}" "${endpoint:-an unknown address}"
}

# refuse_other_owner: ends the script on a machine of another node or cluster.
refuse_other_owner() {
    local owner
    owner=$(other_owner)
    [ -z "$owner" ] || fail another-node "this machine is node $owner" \
        "in the stack file it is $NODE_NAME of the cluster at $ENDPOINT; nothing was changed" \
        "set the node's address and name, and nordmesh:kubernetes.endpoint, back to their old values. To use the machine elsewhere, first remove its node from its stack file and run \`pulumi up\`; if it is in no stack file, $CLEAR"
}

# ask_for_node: sets `answer` to the name of this node if the cluster has it, and to nothing if it does
# not; asks as the node's kubelet.
ask_for_node() {
    answer=$(kubectl --kubeconfig "$KUBELET_CONF" --request-timeout 5s \
        get node "$NODE_NAME" --ignore-not-found -o name 2>"$ANSWER_LOG")
}

# has_expired: whether the API server refuses kubelet's certificate because it has expired.
has_expired() {
    local certificate check
    grep -q Unauthorized "$ANSWER_LOG" || return 1
    certificate=$(kubelet_certificate)
    check=$(openssl x509 -noout -checkend 0 <<<"$certificate" 2>/dev/null) || true
    [ "$check" = "Certificate will expire" ]
}

# has_answer: waits for an answer of the API server about this node, and sets `answer`; false if none
# came within API_SECONDS. An expired certificate is answered with nothing.
has_answer() {
    local deadline=$((SECONDS + API_SECONDS)) waits=false
    until ask_for_node; do
        if has_expired; then
            # shellcheck disable=SC2034 # for the caller
            answer=
            return 0
        fi
        [ "$SECONDS" -lt "$deadline" ] || return 1
        $waits || step "waiting up to $API_SECONDS s for the API server"
        waits=true
        sleep 1
    done
}

# has_ca KUBECONFIG: whether this machine's cluster has the CA of a kubeconfig, given as text.
has_ca() {
    cmp -s /etc/kubernetes/pki/ca.crt <(sed -n 's/^ *certificate-authority-data: //p' <<<"$1" | base64 -d)
}

# settings_in PATTERN: reads YAML as kubeadm.to_yaml writes it and prints the settings whose names match
# an extended regular expression: a line `Kind.path: value` each, sorted. The order of keys, quotes and
# what a release adds beside them make no difference.
settings_in() {
    awk -v pattern="$1" '
        function finish(    i) {
            for (i = 1; i <= count; i++)
                if ((kind "." names[i]) ~ pattern) print kind "." names[i] ": " values[i]
            count = depth = 0
            kind = ""
            split("", items)
        }
        function unquoted(text) {
            if (text ~ /^\047.*\047$/ || text ~ /^".*"$/) text = substr(text, 2, length(text) - 2)
            gsub(/\047\047/, "\047", text)
            return text
        }
        function path(    i, text) {
            for (i = 1; i <= depth; i++) text = text (i > 1 ? "." : "") keys[i]
            return text
        }
        function add(value) {
            names[++count] = path()
            values[count] = unquoted(value)
            if (names[count] == "kind") kind = values[count--]
            else if (names[count] == "apiVersion") count--
        }
        /^---/ { finish(); next }
        {
            match($0, /^ */)
            indent = RLENGTH
            text = substr($0, indent + 1)
            # A list is indented as its key is.
            while (match(text, /^- +/)) {
                width = RLENGTH
                while (depth && (indents[depth] > indent || indents[depth] == indent && is_item[depth])) depth--
                parent = path()
                keys[++depth] = items[parent]++
                indents[depth] = indent
                is_item[depth] = 1
                indent += width
                text = substr(text, width + 1)
            }
            if (!match(text, /^[^ ]+:( |$)/)) { add(text); next }
            while (depth && indents[depth] >= indent) depth--
            keys[++depth] = unquoted(substr(text, 1, index(text, ":") - 1))
            indents[depth] = indent
            is_item[depth] = 0
            text = substr(text, index(text, ":") + 2)
            if (text != "") add(text)
        }
        END { finish() }
    ' | sort
}

# has_same_settings PATTERN FILE TEXT: whether a file and a text have the same settings of these names;
# shows those that differ.
has_same_settings() {
    local before now
    before=$(settings_in "$1" <"$2") && now=$(settings_in "$1" <<<"$3") && diff <(echo "$before") <(echo "$now") >&2
}
