"""GET /configz: how this node is set up, in the words of KubeletConfiguration (kubelet-contract 7.2)."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from aiohttp import web

from wasmlet.images.collection import Policy
from wasmlet.images.settings import Settings as ImageSettings
from wasmlet.node.settings import Settings as NodeSettings
from wasmlet.server import authentication, authorization

KIND = {"kind": "KubeletConfiguration", "apiVersion": "kubelet.config.k8s.io/v1beta1"}


class Configz:
    """Answers with the configuration.

    Args:
        configuration: What other rooms know, as fields of KubeletConfiguration (v1beta1); wins over what is said here.
    """

    def __init__(self, configuration: Mapping[str, object], *, debugging_handlers: bool) -> None:
        self._configuration = configuration
        self._debugging_handlers = debugging_handlers

    async def handle(self, _: web.Request) -> web.Response:
        """The configuration as it is now."""
        document = {"kubeletconfig": KIND | self._own() | dict(self._configuration)}
        return web.Response(body=msgspec.json.encode(document), content_type="application/json")

    def _own(self) -> dict[str, object]:
        """What this room decides."""
        return {
            "enableServer": True,
            "readOnlyPort": 0,
            "authentication": {
                "x509": {},
                "webhook": {"enabled": True, "cacheTTL": duration(authentication.KNOWN_SECONDS)},
                "anonymous": {"enabled": False},
            },
            "authorization": {
                "mode": "Webhook",
                "webhook": {
                    "cacheAuthorizedTTL": duration(authorization.ALLOWED_SECONDS),
                    "cacheUnauthorizedTTL": duration(authorization.DENIED_SECONDS),
                },
            },
            "enableDebuggingHandlers": self._debugging_handlers,
            "tlsMinVersion": "VersionTLS12",
        }


def of_node(settings: NodeSettings, *, healthz_port: int = 0, client_ca_file: str = "") -> dict[str, object]:
    """What the node's settings are in KubeletConfiguration; fields that mean nothing here are left out."""
    shutdown: dict[str, object] = {
        "shutdownGracePeriod": duration(settings.shutdown_grace_seconds),
        "shutdownGracePeriodCriticalPods": duration(settings.shutdown_critical_seconds),
    }
    if settings.shutdown_grace_by_priority:
        shutdown["shutdownGracePeriodByPodPriority"] = [
            {"priority": priority, "shutdownGracePeriodSeconds": round(seconds)}
            for priority, seconds in sorted(settings.shutdown_grace_by_priority)
        ]
    healthz = {"healthzBindAddress": "127.0.0.1"} if healthz_port else {}
    return {
        "port": settings.port,
        "healthzPort": healthz_port,
        **healthz,
        "authentication": {
            "x509": {"clientCAFile": client_ca_file} if client_ca_file else {},
            "webhook": {"enabled": True, "cacheTTL": duration(authentication.KNOWN_SECONDS)},
            "anonymous": {"enabled": False},
        },
        "rotateCertificates": settings.rotates_client_certificate,
        "serverTLSBootstrap": settings.requests_serving_certificate,
        "maxPods": settings.max_pods,
        "nodeStatusUpdateFrequency": duration(settings.status_seconds),
        "nodeStatusReportFrequency": duration(settings.report_seconds),
        "nodeStatusMaxImages": settings.max_images,
        "nodeLeaseDurationSeconds": settings.lease_seconds,
        "evictionPressureTransitionPeriod": duration(settings.pressure_seconds),
        "evictionHard": {
            "memory.available": f"{settings.eviction_memory_bytes >> 20}Mi",
            "nodefs.available": _percent(settings.eviction_disk_share),
            "nodefs.inodesFree": _percent(settings.eviction_inodes_share),
            "pid.available": _percent(settings.eviction_pids_share),
        },
        "systemReserved": dict(settings.reserved),
        "registerNode": True,
        "registerWithTaints": [msgspec.to_builtins(each) for each in settings.taints],
        "providerID": settings.provider_id,
        "containerRuntimeEndpoint": "",
        **shutdown,
    }


def of_images(policy: Policy, settings: ImageSettings) -> dict[str, object]:
    """How images are pulled, who may use them, and when unused ones go, in KubeletConfiguration."""
    return {
        "imageGCHighThresholdPercent": policy.high_percent,
        "imageGCLowThresholdPercent": policy.low_percent,
        "imageMinimumGCAge": duration(policy.minimum_age_seconds),
        "imageMaximumGCAge": duration(policy.maximum_age_seconds),
        "imagePullCredentialsVerificationPolicy": settings.verification.policy,
        "serializeImagePulls": settings.parallel_pulls == 1,
        "maxParallelImagePulls": settings.parallel_pulls,
        "preloadedImagesVerificationAllowlist": list(settings.verification.allowlist),
    }


def _percent(share: float) -> str:
    return f"{share * 100:g}%"


def duration(seconds: float) -> str:
    """metav1.Duration as Go writes it: `2m0s`, `30s`, `1h0m0s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
