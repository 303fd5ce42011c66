#!/usr/bin/env bash
# Reports what the items of the CIS benchmark need to know about a node. Read-only. Prints a line for each fact:
# its kind, its name and its value in base64, separated by tabs; `end` is the last. A fact that is missing is no
# answer.
set -u
export LC_ALL=C PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin

# fact KIND NAME: prints a fact with stdin as its value.
fact() { printf '%s\t%s\t%s\n' "$1" "$2" "$(base64 -w0)"; }

for program in kube-apiserver kube-controller-manager kube-scheduler etcd kubelet; do
    for process in /proc/[0-9]*; do
        name=$(head -z -n 1 "$process/cmdline" 2>/dev/null | tr -d '\0') || continue
        [ "${name##*/}" = "$program" ] || continue
        # One argument on each line.
        tr '\0' '\n' <"$process/cmdline" | fact process "$program"
        break
    done
done
find /etc/kubernetes /etc/cni/net.d /var/lib/kubelet/config.yaml /var/lib/etcd -maxdepth 3 \
    -not -path '/var/lib/etcd/*' -printf '%m %u:%g %p\n' 2>/dev/null | fact files all
find /etc/systemd/system/kubelet.service.d -name '*.conf' -printf '%m %u:%g %p\n' 2>/dev/null | fact files kubelet
[ ! -f /var/lib/kubelet/config.yaml ] || fact file kubelet </var/lib/kubelet/config.yaml
[ ! -f /etc/kubernetes/pki/encryption.yaml ] ||
    sed -n 's/^ *- \([a-z]*\):.*/\1/p' /etc/kubernetes/pki/encryption.yaml | fact providers encryption
fact end end </dev/null
