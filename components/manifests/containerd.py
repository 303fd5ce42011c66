"""What containerd is configured with on a node."""

_CONFIG = """\
# Written by nordmesh; changes are overwritten.
version = 2

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause_image}"
  restrict_oom_score_adj = {restrict_oom_score_adj}

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"

  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "/etc/containerd/certs.d"

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = {systemd_cgroup}
"""

CONTAINERD_UNIT = """\
# Written by nordmesh; changes are overwritten.
[Unit]
Description=containerd, the container runtime
After=network.target local-fs.target dbus.service

[Service]
Type=notify
ExecStart=/usr/local/bin/containerd
# It and the shims take runc and each other from here, whatever a package has put elsewhere.
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
Restart=always
RestartSec=5
# Containers outlive it, and their control groups are its own affair.
KillMode=process
Delegate=yes
OOMScoreAdjust=-999
TasksMax=infinity
LimitCORE=infinity
LimitNPROC=infinity
# What pods inherit. With infinity, programs that close each possible file at their start take long.
LimitNOFILE=1048576

[Install]
WantedBy=multi-user.target"""

# A server is what containerd asks last; without one it is the official host. containerd 1.6 takes
# no file without a host, and then asks the official one.
_MIRROR = """\
[host."{registry}/v2/{host}"]
  capabilities = ["pull", "resolve"]
  override_path = true
"""
_ONLY = """\
server = "{registry}/v2/{host}"
capabilities = ["pull", "resolve"]
override_path = true

"""
_FALLBACK = """\
server = "https://{server}"

"""
_RENAMED = {"docker.io": "registry-1.docker.io"}


def containerd_config(*, pause_image: str, cgroup_driver: str, restrict_oom_score_adj: bool) -> str:
    """The text of /etc/containerd/config.toml for containerd 1.6 and 1.7."""
    return _CONFIG.format(
        pause_image=pause_image,
        restrict_oom_score_adj=str(restrict_oom_score_adj).lower(),
        systemd_cgroup=str(cgroup_driver == "systemd").lower(),
    ).rstrip("\n")


def registry_hosts(
    *, registry: str | None, images: list[str], fallback: bool = False
) -> dict[str, str]:
    """A hosts.toml for each registry that the images name, so that the mirror is asked instead.

    The mirror holds an image of registry.k8s.io below the path registry.k8s.io/. fallback: the
    official registry is asked for what the mirror lacks. Empty without a mirror.
    """
    if registry is None:
        return {}
    hosts = sorted({image.split("/", 1)[0] for image in images})
    text = (_FALLBACK if fallback else _ONLY) + _MIRROR
    return {
        host: text.format(
            host=host, registry=registry.rstrip("/"), server=_RENAMED.get(host, host)
        ).rstrip("\n")
        for host in hosts
    }
