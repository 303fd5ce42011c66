#!/usr/bin/env bash
# Reads the state of a guest and its network from libvirt; for scripts that use it after lib.sh. Reads:
# DOMAIN UUID BRIDGE HYPERVISOR. Only a list without a name means that the guest or network is gone: if
# libvirt does not answer, each function ends the script. Call them outside of `$(...)` and pipelines,
# whose exit does not end the script.

export LIBVIRT_DEFAULT_URI=qemu:///system

# ask_virsh COMMAND...: sets `answer` to the output of virsh.
ask_virsh() {
    answer=$(ask virsh "$@") || fail libvirt-silent "libvirt does not answer on the hypervisor $HYPERVISOR" \
        "it runs the guests, and only it knows which of them exist" \
        "check \`systemctl status libvirtd\` there, then run \`pulumi up\` again"
}

# has_guest: whether any guest has this name.
has_guest() {
    local answer
    ask_virsh list --all --name
    grep -qxF -- "$DOMAIN" <<<"$answer"
}

# is_ours: whether the guest with this name is this stack's.
is_ours() {
    local answer
    has_guest || return 1
    ask_virsh domuuid "$DOMAIN"
    [ "$answer" = "$UUID" ]
}

# is_in STATE: whether the guest exists and is in a state.
is_in() {
    local answer
    has_guest || return 1
    ask_virsh domstate "$DOMAIN"
    [ "$answer" = "$1" ]
}

# has_network [--all]: whether the network runs, or exists.
has_network() {
    local answer
    ask_virsh net-list "$@" --name
    grep -qxF -- "$BRIDGE" <<<"$answer"
}

# network_in_use: whether anything is connected to the bridge.
network_in_use() {
    local ports=("/sys/class/net/$BRIDGE/brif/"*)
    [ -e "${ports[0]}" ]
}
