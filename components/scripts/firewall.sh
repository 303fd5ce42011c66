#!/usr/bin/env bash
# The firewall of a node: its own nftables tables, `inet nordmesh` and, where kube-router filters the pods,
# `inet nordmesh-pods`. Other tables are neither read nor flushed. For host.sh; uses endpoint.sh.

readonly FIREWALL_RULES=/etc/nordmesh/firewall.nft
readonly FIREWALL_MEMBERS=/etc/nordmesh/members.nft
readonly FIREWALL_UNIT=nordmesh-firewall.service
readonly POD_TABLE='table inet nordmesh-pods'

# ssh_client: the address that this script's SSH connection comes from; nothing without one.
ssh_client() {
    local process=$$ address
    while [ "${process:-0}" -gt 1 ]; do
        # sudo may have removed it from this script's own environment.
        address=$(tr '\0' '\n' 2>/dev/null <"/proc/$process/environ" | sed -n 's/^SSH_CONNECTION=\([^ ]*\) .*/\1/p')
        [ -z "$address" ] || break
        process=$(sed -n 's/^PPid:\s*//p' "/proc/$process/status" 2>/dev/null)
    done
    printf '%s' "$address"
}

# is_in_networks ADDRESS NETWORKS: whether nftables finds an address in one of the networks.
is_in_networks() {
    local result=0
    logged firewall-test nft -f - <<<"table inet nordmesh-try
        delete table inet nordmesh-try
        table inet nordmesh-try { set networks {
        type ipv4_addr; flags interval; auto-merge; elements = { $2 }; }; }"
    nft get element inet nordmesh-try networks "{ $1 }" >/dev/null 2>&1 || result=1
    nft delete table inet nordmesh-try
    return "$result"
}

# require_ssh_access: refuses rules that would block the SSH connection of this script.
require_ssh_access() {
    local client
    [ -n "$SSH_FROM" ] || return 0
    client=$(ssh_client)
    [ -n "$client" ] || return 0
    # The networks are IPv4; the rules drop everything else.
    [[ $client =~ ^[0-9.]+$ ]] || fail ssh-from-ipv6 "the firewall would block SSH from $client, where this connection comes from" \
        "nordmesh:host.firewall.sshFrom contains IPv4 networks only; the rules were not loaded" \
        "connect over IPv4: set the node's address, or its bastion's, to an IPv4 address"
    is_in_networks "$client" "$SSH_FROM" || fail ssh-would-be-blocked "the firewall would block SSH from $client, where this connection comes from" \
        "the next \`pulumi up\` could not log in; the rules were not loaded" \
        "add its network to nordmesh:host.firewall.sshFrom"
}

# fetch_members: writes the addresses of the cluster's members on a node that has joined. Without them
# the rules would drop the members' packets.
fetch_members() {
    local deadline=$((SECONDS + API_SECONDS))
    until bash "$MEMBERS_PROGRAM" once; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            rm -f "$FIREWALL_MEMBERS"
            fail members-unknown "the API server does not return the nodes of the cluster" \
                "without their addresses the firewall would drop their packets; its rules were not loaded" \
                "check that the control plane runs and that this node can reach it, then run \`pulumi up\` again"
        fi
        sleep 1
    done
}

# firewall_on: loads the rules unless the current ones are loaded, and starts the service.
firewall_on() {
    if [ ! -f "$FIREWALL_MEMBERS" ]; then
        # On a node of an existing cluster, before the rules drop the members' packets.
        if [ -f "$INITIALISED_MARK" ] || [ -f "$JOINED_MARK" ]; then
            fetch_members
        else
            write_file "$FIREWALL_MEMBERS" 644 "define members = { $ENDPOINT_ADDRESS }" || true
        fi
    fi
    if has_changed "$FIREWALL_RULES" "/etc/systemd/system/$FIREWALL_UNIT" ||
        ! nft list table inet nordmesh >/dev/null 2>&1; then
        step "load the firewall rules"
        logged firewall nft -f "$FIREWALL_RULES"
        grep -qF "$POD_TABLE" "$FIREWALL_RULES" || delete_table "$POD_TABLE"
    fi
    systemctl enable --quiet "$FIREWALL_UNIT" 2>/dev/null
    is_active "$FIREWALL_UNIT" || logged "$FIREWALL_UNIT" systemctl start "$FIREWALL_UNIT" 9>&-
}

# delete_table TABLE: deletes one of the firewall's own tables, if there is one.
delete_table() {
    logged firewall-tables nft list tables
    # shellcheck disable=SC2086 # `table FAMILY NAME`
    ! grep -qxF "$1" "$LOG_DIR/firewall-tables.log" || logged firewall-off nft delete $1
}

# firewall_off: removes the rules and the service, with the members' addresses.
firewall_off() {
    [ -e "$FIREWALL_MEMBERS" ] || [ -e "$FIREWALL_RULES" ] || return 0
    step "remove the firewall rules"
    stop_for_good "$FIREWALL_UNIT"
    delete_table 'table inet nordmesh'
    delete_table "$POD_TABLE"
    rm -f "$FIREWALL_MEMBERS"
}
