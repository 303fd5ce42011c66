#!/usr/bin/env bash
# The load balancer of a worker, to which the API server's name leads there, and the service that follows the
# cluster's members for it and for the firewall. For host.sh.

readonly ENDPOINT_PROGRAM=/usr/local/lib/nordmesh/endpoint.sh
readonly ENDPOINT_CONFIG=/etc/nordmesh/endpoint.cfg
readonly ENDPOINT_SERVERS=/etc/nordmesh/endpoint-servers.cfg
readonly ENDPOINT_UNIT=nordmesh-endpoint.service
readonly MEMBERS_PROGRAM=/usr/local/lib/nordmesh/members.sh
readonly MEMBERS_UNIT=nordmesh-members.service
# Exists from before the installation of the package until Debian's service of it is off.
readonly HAPROXY_NEW=/var/lib/nordmesh/haproxy.new

# before_haproxy, after_haproxy: turn off the service that Debian enables with the package, unless the
# package was there already: then it is the owner's. It has nothing to listen on, and fails at each boot.
before_haproxy() {
    has_files endpoint || return 0
    is_installed_package haproxy || write_file "$HAPROXY_NEW" 644 "" || true
}
after_haproxy() {
    [ -e "$HAPROXY_NEW" ] || return 0
    stop_for_good haproxy.service
    systemctl reset-failed haproxy.service 2>/dev/null || true
    rm -f "$HAPROXY_NEW"
}

# answers_behind_endpoint: whether the API server answers this node through the load balancer.
answers_behind_endpoint() {
    local server
    server=$(sed -n "s,^ *server: https://.*\(:[0-9]*\)$,https://$ENDPOINT_ADDRESS\1,p" "$KUBELET_CONF")
    kubectl --kubeconfig "$KUBELET_CONF" --request-timeout 5s --server "$server" --tls-server-name "$ENDPOINT" \
        get --raw /readyz
}

# endpoint_on: starts the load balancer. On a node that joined without it, the API server's name still leads
# to a control plane until this has succeeded.
endpoint_on() {
    # Neither starts it.
    if has_changed "/etc/systemd/system/$ENDPOINT_UNIT"; then
        logged endpoint-restart systemctl try-restart "$ENDPOINT_UNIT" 9>&-
    elif has_changed "$ENDPOINT_CONFIG"; then
        logged endpoint-reload systemctl reload-or-try-restart "$ENDPOINT_UNIT" 9>&-
    fi
    if [ ! -f "$ENDPOINT_SERVERS" ]; then
        step "start the load balancer of the API servers"
        if [ -f "$JOINED_MARK" ]; then
            until_true "$API_SECONDS" "the list of control planes" bash "$MEMBERS_PROGRAM" once
        else
            logged endpoint-servers bash "$ENDPOINT_PROGRAM" 9>&-
        fi
    fi
    systemctl enable --quiet "$ENDPOINT_UNIT" 2>/dev/null
    is_active "$ENDPOINT_UNIT" || logged endpoint-start systemctl start "$ENDPOINT_UNIT" 9>&-
    if [ -f "$JOINED_MARK" ] && ! grep -qxF "$ENDPOINT_ADDRESS $ENDPOINT # nordmesh" /etc/hosts; then
        until_true "$API_SECONDS" "the API server behind the load balancer" answers_behind_endpoint
    fi
}

# endpoint_off: stops the load balancer of a machine that leaves the cluster.
endpoint_off() {
    [ -e "$ENDPOINT_CONFIG" ] || [ -e "$ENDPOINT_SERVERS" ] || return 0
    stop_for_good "$ENDPOINT_UNIT"
    rm -f "$ENDPOINT_SERVERS"
}

# members_on: starts the service that follows the members, after its files are there.
members_on() {
    if has_changed "$MEMBERS_PROGRAM" "/etc/systemd/system/$MEMBERS_UNIT"; then
        systemctl stop "$MEMBERS_UNIT" 2>/dev/null || true
    fi
    systemctl enable --quiet "$MEMBERS_UNIT" 2>/dev/null
    is_active "$MEMBERS_UNIT" || logged "$MEMBERS_UNIT" systemctl start "$MEMBERS_UNIT" 9>&-
}

members_off() { [ ! -e "$MEMBERS_PROGRAM" ] || stop_for_good "$MEMBERS_UNIT"; }
