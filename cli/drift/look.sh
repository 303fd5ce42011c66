#!/usr/bin/env bash
# Reports the state of a node. Read-only: writes no file, starts nothing.
# Reads: FILES DIRECTORIES COMMANDS ARCHIVES SYSCTLS PACKAGES UNITS (names separated by spaces), and on a
# control plane DOCUMENT_* (IstioOperators) and CONFIG_MAPS. Prints a line for each fact: its kind, its name
# and its value in base64, separated by tabs; `end` is the last. The output of a failed command is not a
# fact.
set -u
export LC_ALL=C PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin
# The API server is never behind the machine's proxy.
unset {http,https,ftp,all,no}_proxy {HTTP,HTTPS,FTP,ALL,NO}_PROXY
readonly ADMIN=/etc/kubernetes/admin.conf

# fact KIND NAME: prints a fact with stdin as its value.
fact() { printf '%s\t%s\t%s\n' "$1" "$2" "$(base64 -w0)"; }

# contents KIND NAME PATH: prints a fact with the content of a file, if it exists.
contents() { [ ! -f "$3" ] || fact "$1" "$2" <"$3"; }

# kube COMMAND...: runs kubectl as the administrator, without writing its cache.
kube() { kubectl --kubeconfig "$ADMIN" --cache-dir /dev/null/none --request-timeout 20s "$@"; }

# objects NAME: for the manifests on stdin, the objects that the API server would create, and the actual
# ones.
objects() {
    local manifests planned actual
    manifests=$(cat)
    planned=$(printf %s "$manifests" | dry_run --output json --show-managed-fields=false 2>/dev/null)
    if [ -n "$planned" ]; then
        printf %s "$planned" | gzip | fact planned "$1"
    else
        printf %s "$manifests" | dry_run 2>&1 | fact error "$1"
    fi
    if actual=$(kube get --ignore-not-found --output json --show-managed-fields \
        --filename - <<<"$manifests" 2>/dev/null); then
        printf %s "$actual" | gzip | fact actual "$1"
    fi
}

# dry_run ARGUMENT...: a server-side dry run of applying the manifests on stdin.
dry_run() {
    kube apply --server-side --dry-run=server --force-conflicts --field-manager=nordmesh-drift \
        --filename - "$@"
}

cluster() {
    local document name error text
    # Without an API server, every request would wait for its timeout, and exceed the node's.
    if ! error=$(kube get --raw /readyz --request-timeout 5s 2>&1); then
        printf %s "$error" | fact error readyz
        return
    fi
    for document in ${!DOCUMENT_*}; do
        printf %s "${!document}" | istioctl manifest generate --filename - 2>/dev/null |
            objects "$document"
    done
    # A line for each node: its name, its labels and its taints, the last two as JSON.
    if text=$(kube get nodes --output 'jsonpath={range .items[*]}{.metadata.name}{"\t"}{.metadata.labels}{"\t"}{.spec.taints}{"\n"}{end}' 2>/dev/null); then
        printf %s "$text" | fact nodes labels
    fi
    for name in $CONFIG_MAPS; do
        if text=$(kube --namespace kube-system get configmap "$name" --ignore-not-found --output json 2>/dev/null); then
            printf %s "$text" | fact configmap "$name"
        fi
    done
}

for path in $FILES; do
    [ ! -f "$path" ] || stat -L -c '%a %U' "$path" | fact mode "$path"
    contents file "$path" "$path"
done
for directory in $DIRECTORIES; do
    find "$directory" -type f -printf '%P\n' 2>/dev/null | sort | fact directory "$directory"
done
for path in $COMMANDS; do
    sha256sum "$path" 2>/dev/null | cut -d ' ' -f 1 | fact sha256 "$path"
done
for name in $ARCHIVES; do
    contents download "$name" "/var/lib/nordmesh/$name.sha256"
    [ ! -f "/var/lib/nordmesh/$name.files" ] ||
        sha256sum --check --quiet "/var/lib/nordmesh/$name.files" 2>/dev/null |
        sed -n 's/: FAILED.*//p' | fact changed "$name"
done
for key in $SYSCTLS; do
    contents sysctl "$key" "/proc/sys/${key//.//}"
done
# shellcheck disable=SC2086 # lists of names
{
    dpkg-query --show --showformat '${Package} ${db:Status-Status}\n' $PACKAGES 2>/dev/null | fact packages installed
    dpkg --verify $PACKAGES 2>/dev/null | fact packages verified
    apt-mark showhold 2>/dev/null | fact packages held
    for unit in $UNITS; do
        systemctl show "$unit" --property ActiveState,UnitFileState,FragmentPath,DropInPaths,NeedDaemonReload |
            fact unit "$unit"
    done
}
pid=$(systemctl show containerd --property MainPID --value)
[ "${pid:-0}" = 0 ] || readlink "/proc/$pid/exe" | fact running containerd
pid=$(systemctl show kubelet --property MainPID --value)
[ "${pid:-0}" = 0 ] || fact kubelet flags <"/proc/$pid/cmdline"
tail -n +2 /proc/swaps | fact swap devices
sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo | fact memory kib
rules=$(for table in nordmesh nordmesh-pods; do nft list table inet "$table" 2>/dev/null; done)
[ -z "$rules" ] || printf %s "$rules" | fact firewall rules
if effective=$(sshd -T 2>&1); then
    grep '^passwordauthentication ' <<<"$effective" | fact sshd effective
else
    printf %s "$effective" | fact error sshd
fi
[ ! -f "$ADMIN" ] || [ -z "${CONFIG_MAPS-}" ] || cluster
fact end end </dev/null
