#!/usr/bin/env bash
# The firewall of a node: a table of nftables of its own, `inet nordmesh`, and the service that tells
# it who belongs to the cluster. Other tables are neither read nor flushed. For host.sh.

readonly FIREWALL_RULES=/etc/nordmesh/firewall.nft
readonly FIREWALL_MEMBERS=/etc/nordmesh/members.nft
readonly MEMBERS_PROGRAM=/usr/local/lib/nordmesh/members.sh
readonly FIREWALL_UNITS="nordmesh-firewall.service nordmesh-members.service"

# ssh_client: the address that this script's SSH connection comes from; nothing where it has none.
ssh_client() {
    local process=$$ found
    while [ "${process:-0}" -gt 1 ]; do
        # Not in this script's own environment where sudo has cleared that.
        found=$(tr '\0' '\n' 2>/dev/null <"/proc/$process/environ" | sed -n 's/^SSH_CONNECTION=\([^ ]*\) .*/\1/p')
        [ -z "$found" ] || break
        process=$(sed -n 's/^PPid:\s*//p' "/proc/$process/status" 2>/dev/null)
    done
    printf '%s' "$found"
}

# let_in ADDRESS NETWORKS: whether an address lies in one of the networks, as nftables has it.
let_in() {
    local result=0
    logged firewall-test nft -f - <<<"table inet nordmesh-try
        delete table inet nordmesh-try
        table inet nordmesh-try { set networks {
        type ipv4_addr; flags interval; auto-merge; elements = { $2 }; }; }"
    nft get element inet nordmesh-try networks "{ $1 }" >/dev/null 2>&1 || result=1
    nft delete table inet nordmesh-try
    return "$result"
}

# firewall_allows_us: refuses rules that would shut out whoever runs this script.
firewall_allows_us() {
    local client
    [ -n "$SSH_FROM" ] || return 0
    client=$(ssh_client)
    [ -n "$client" ] || return 0
    # The networks are IPv4, and the rules drop all else.
    [[ $client =~ ^[0-9.]+$ ]] || fail ssh-from-ipv6 "the firewall would block SSH from $client, where this connection comes from" \
        "nordmesh:host.firewall.sshFrom contains IPv4 networks only; the rules were not loaded" \
        "connect over IPv4: set the node's address, or its bastion's, to an IPv4 address"
    let_in "$client" "$SSH_FROM" || fail ssh-would-be-blocked "the firewall would block SSH from $client, where this connection comes from" \
        "the next \`pulumi up\` could not log in; the rules were not loaded" \
        "add its network to nordmesh:host.firewall.sshFrom"
}

# know_members: the members of a cluster that this node has joined. Where nobody says who they are, the
# rules would drop their packets.
know_members() {
    local deadline=$((SECONDS + API_SECONDS))
    until bash "$MEMBERS_PROGRAM" "$ENDPOINT_ADDRESS" once; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            rm -f "$FIREWALL_MEMBERS"
            fail members-unknown "the API server does not return the nodes of the cluster" \
                "without their addresses the firewall would drop their packets; its rules were not loaded" \
                "check that the control plane runs and that this node can reach it, then run \`pulumi up\` again"
        fi
        sleep 1
    done
}

# firewall_on: loads the rules where they are not loaded as they are written, and starts the service.
firewall_on() {
    local unit
    if [ ! -f "$FIREWALL_MEMBERS" ]; then
        # Of a cluster that is there already, before the others' packets are dropped.
        if [ -f "$INITIALISED_MARK" ] || [ -f "$JOINED_MARK" ]; then
            know_members
        else
            write_file "$FIREWALL_MEMBERS" 644 "define members = { $ENDPOINT_ADDRESS }" || true
        fi
    fi
    if has_changed /etc/nordmesh/ /etc/systemd/system/nordmesh- /usr/local/lib/nordmesh/ ||
        ! nft list table inet nordmesh >/dev/null 2>&1; then
        step "load the firewall's rules"
        systemctl daemon-reload
        logged firewall nft -f "$FIREWALL_RULES"
        systemctl stop nordmesh-members.service 2>/dev/null || true
    fi
    for unit in $FIREWALL_UNITS; do
        systemctl enable --quiet "$unit" 2>/dev/null
        systemctl is-active --quiet "$unit" || logged "$unit" systemctl start "$unit" 9>&-
    done
}

# firewall_off: takes the rules and the services away, with what they wrote.
firewall_off() {
    [ -e "$FIREWALL_MEMBERS" ] || [ -e "$FIREWALL_RULES" ] || return 0
    step "take the firewall's rules away"
    # shellcheck disable=SC2086 # a list of names
    systemctl disable --quiet --now $FIREWALL_UNITS 2>/dev/null || true
    logged firewall-tables nft list tables
    ! grep -qxF 'table inet nordmesh' "$LOG_DIR/firewall-tables.log" ||
        logged firewall-off nft delete table inet nordmesh
    rm -f "$FIREWALL_MEMBERS"
}
