#!/usr/bin/env bash
# What libvirt says about a guest and its network, for the scripts that use it; lib.sh is before it.
# Reads: DOMAIN UUID BRIDGE HYPERVISOR. Only a list without a name means that the guest or network is
# gone: if libvirt does not answer, each function ends the script. Call them outside of `$(...)` and
# pipelines, whose exit is not the script's.

export LIBVIRT_DEFAULT_URI=qemu:///system

# virsh_says COMMAND...: sets `said` to what virsh prints.
virsh_says() {
    said=$(ask virsh "$@") || fail libvirt-silent "libvirt does not answer on the hypervisor $HYPERVISOR" \
        "it runs the guests, and only it knows which of them exist" \
        "check \`systemctl status libvirtd\` there, then run \`pulumi up\` again"
}

# has_guest: whether there is a guest of this name, anyone's.
has_guest() {
    local said
    virsh_says list --all --name
    grep -qxF -- "$DOMAIN" <<<"$said"
}

# is_ours: whether the guest of this name is the one of this stack.
is_ours() {
    local said
    has_guest || return 1
    virsh_says domuuid "$DOMAIN"
    [ "$said" = "$UUID" ]
}

# is_in STATE: whether the guest exists and is in a state.
is_in() {
    local said
    has_guest || return 1
    virsh_says domstate "$DOMAIN"
    [ "$said" = "$1" ]
}

# has_network [--all]: whether the network runs, or exists.
has_network() {
    local said
    virsh_says net-list "$@" --name
    grep -qxF -- "$BRIDGE" <<<"$said"
}

# network_in_use: whether anything is connected to the bridge.
network_in_use() {
    local ports=("/sys/class/net/$BRIDGE/brif/"*)
    [ -e "${ports[0]}" ]
}
