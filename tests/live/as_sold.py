"""Machines as providers sell them: what is unusual about each of two.

Each script can run again; the machines stay like this until they are destroyed.
"""

from tests.live.planted import PLANE, WORKER

DEAD_PROXY = "http://127.0.0.1:9"
# The other network of a machine with two interfaces.
_OTHER = """
ip link show eth9 >/dev/null 2>&1 || ip link add eth9 type veth peer name router9
ip address replace 198.51.100.2/24 dev eth9
ip link set eth9 up
ip link set router9 up
"""
_ANYWHERE = rf"""set -e
sed -i '1i echo Welcome to this machine' /root/.bashrc /home/*/.bashrc
printf '%s\n' https_proxy={DEAD_PROXY} HTTPS_PROXY={DEAD_PROXY} >>/etc/environment
echo 'Defaults env_keep += "https_proxy HTTPS_PROXY"' >/etc/sudoers.d/proxy
printf '%s\n' 'MaxAuthTries 3' 'LoginGraceTime 20' >/etc/ssh/sshd_config.d/hard.conf
systemctl reload ssh
"""

# The default route leads away from the node's address; the resolver is a local one, and dnsmasq's
# file has the servers that it asks.
TWO_INTERFACES = rf"""{_ANYWHERE}
{_OTHER}
ip route replace default via 198.51.100.1 dev eth9
echo 'nameserver 127.0.0.1' >/etc/resolv.conf
mkdir -p /run/dnsmasq
echo 'nameserver 198.51.100.53' >/run/dnsmasq/resolv.conf
"""
# Another process holds dpkg's lock while the node is prepared.
NO_DEFAULT_ROUTE = rf"""{_ANYWHERE}
ip route delete default || true
echo 'nameserver 198.51.100.54' >/etc/resolv.conf
systemd-run --quiet --unit=plant-lock perl -MFcntl -e '
    open my $file, "+>>", "/var/lib/dpkg/lock" or die;
    my $lock = pack "s s x4 q q l x4", F_WRLCK, 0, 0, 0, 0;
    fcntl $file, F_SETLK, $lock or die;
    sleep 90'
"""

SCRIPTS = {PLANE: TWO_INTERFACES, WORKER: NO_DEFAULT_ROUTE}
NAME_SERVERS = {PLANE: "198.51.100.53", WORKER: "198.51.100.54"}

# A login shell that refuses a line break within quotes, as csh does.
CSH = r"""#!/bin/bash
case $2 in *$'\n'*) echo "Unmatched '''." >&2; exit 1 ;; esac
exec /bin/sh "$@"
"""
