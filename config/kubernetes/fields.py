"""The keys of the configurations of kubelet and kube-proxy, and the kind of each value.

They are those of Kubernetes 1.23: k8s.io/kubelet/config/v1beta1 and k8s.io/kube-proxy/config/
v1alpha1. Both ignore other keys: they start, and write one line to their logs.
"""

from collections.abc import Mapping, Sequence

Fields = Mapping[str, str]
"""The kind of value by key."""


def _fields(names: Mapping[str, str]) -> Fields:
    return {name: kind for kind, text in names.items() for name in text.split()}


KUBELET = _fields(
    {
        "boolean": "enableServer rotateCertificates serverTLSBootstrap enableDebuggingHandlers "
        "enableContentionProfiling cgroupsPerQOS runOnce cpuCFSQuota serializeImagePulls "
        "enableControllerAttachDetach protectKernelDefaults makeIPTablesUtilChains "
        "failSwapOn kernelMemcgNotification enableSystemLogHandler enableProfilingHandler "
        "enableDebugFlagsHandler seccompDefault registerNode",
        "text": "staticPodPath staticPodURL address tlsCertFile tlsPrivateKeyFile tlsMinVersion "
        "healthzBindAddress clusterDomain kubeletCgroups systemCgroups cgroupRoot "
        "cgroupDriver cpuManagerPolicy memoryManagerPolicy topologyManagerPolicy "
        "topologyManagerScope hairpinMode podCIDR resolvConf contentType "
        "containerLogMaxSize configMapAndSecretChangeDetectionStrategy reservedSystemCPUs "
        "showHiddenMetricsForVersion systemReservedCgroup kubeReservedCgroup "
        "volumePluginDir providerID",
        "duration": "syncFrequency fileCheckFrequency httpCheckFrequency "
        "streamingConnectionIdleTimeout nodeStatusUpdateFrequency "
        "nodeStatusReportFrequency imageMinimumGCAge volumeStatsAggPeriod "
        "cpuManagerReconcilePeriod runtimeRequestTimeout cpuCFSQuotaPeriod "
        "evictionPressureTransitionPeriod shutdownGracePeriod "
        "shutdownGracePeriodCriticalPods",
        "mapping": "staticPodURLHeader authentication authorization cpuManagerPolicyOptions "
        "qosReserved evictionHard evictionSoft evictionSoftGracePeriod "
        "evictionMinimumReclaim featureGates memorySwap systemReserved kubeReserved "
        "logging",
        "whole number": "port readOnlyPort registryPullQPS registryBurst eventRecordQPS eventBurst "
        "healthzPort oomScoreAdj nodeLeaseDurationSeconds imageGCHighThresholdPercent "
        "imageGCLowThresholdPercent maxPods podPidsLimit nodeStatusMaxImages maxOpenFiles "
        "kubeAPIQPS kubeAPIBurst evictionMaxPodGracePeriod podsPerCore "
        "iptablesMasqueradeBit iptablesDropBit containerLogMaxFiles",
        "list": "tlsCipherSuites clusterDNS enforceNodeAllocatable allowedUnsafeSysctls "
        "shutdownGracePeriodByPodPriority reservedMemory registerWithTaints",
        "number": "memoryThrottlingFactor",
    }
)
KUBE_PROXY = _fields(
    {
        "mapping": "featureGates clientConnection iptables ipvs conntrack winkernel",
        "text": "bindAddress healthzBindAddress metricsBindAddress clusterCIDR hostnameOverride "
        "mode portRange showHiddenMetricsForVersion detectLocalMode",
        "boolean": "bindAddressHardFail enableProfiling",
        "whole number": "oomScoreAdj",
        "duration": "udpIdleTimeout configSyncPeriod",
        "list": "nodePortAddresses",
    }
)
_SIGNALS = [
    "memory.available",
    "nodefs.available",
    "nodefs.inodesFree",
    "imagefs.available",
    "imagefs.inodesFree",
    "pid.available",
    "allocatableMemory.available",
]
NESTED: Mapping[str, Sequence[str]] = {
    "evictionHard": _SIGNALS,
    "evictionSoft": _SIGNALS,
    "evictionSoftGracePeriod": _SIGNALS,
    "evictionMinimumReclaim": _SIGNALS,
    "logging": ["format", "flushFrequency", "verbosity", "vmodule", "options", "sanitization"],
    "memorySwap": ("swapBehavior",),
    "iptables": ["masqueradeBit", "masqueradeAll", "syncPeriod", "minSyncPeriod"],
    "ipvs": [
        "syncPeriod",
        "minSyncPeriod",
        "scheduler",
        "excludeCIDRs",
        "strictARP",
        "tcpTimeout",
        "tcpFinTimeout",
        "udpTimeout",
    ],
    "conntrack": ["maxPerCore", "min", "tcpEstablishedTimeout", "tcpCloseWaitTimeout"],
}
"""The keys of mappings that have no others."""
CHOICES: Mapping[str, Sequence[str]] = {
    "cpuManagerPolicy": ("none", "static"),
    "memoryManagerPolicy": ("None", "Static"),
    "topologyManagerPolicy": ("none", "best-effort", "restricted", "single-numa-node"),
    "topologyManagerScope": ("container", "pod"),
    "hairpinMode": ("none", "hairpin-veth", "promiscuous-bridge"),
    "configMapAndSecretChangeDetectionStrategy": ("Get", "Cache", "Watch"),
    "tlsMinVersion": ("VersionTLS10", "VersionTLS11", "VersionTLS12", "VersionTLS13"),
}
"""The values of texts that have no others."""
KUBE_PROXY_MODES = ("", "userspace", "iptables", "ipvs")
