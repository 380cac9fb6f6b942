"""The settings of this room."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator may say about talking to the API server.

    Attributes:
        queries_per_second: Requests a second that may begin, after the burst (kubeAPIQPS). Default 50, and
        burst: how many may begin at once (kubeAPIBurst), 100: a kubelet's.
        parallel_requests: How many requests may be under way; watches do not count. Default 32.
        connect_timeout_seconds: The time to resolve, connect and shake hands. Default 10.
        timeout_seconds: The time for one whole request, its answer included; watches have others. Default 60.
        attempts: How often one request is made when the server says "later" (429, or 5xx with Retry-After), and a
            GET when the server fails or the line breaks. Default 5.
        retry_delay_seconds: The wait before the second attempt when the server named none, doubled each time, plus
            jitter. Default 0.5.
        max_retry_after_seconds: A longer Retry-After is the caller's to wait for. Default 30.
        max_body_bytes: The largest answer that is read. Default 64 MiB.
        page_size: Objects in each part of a list that is read from etcd. Default 500, as in client-go.
        watch_idle_seconds: After so long without a byte a watch counts as dead. Bookmarks come each minute, or not
            at all on old servers, where the price is a reconnect. Default 150.
        watch_seconds: The server ends a watch at a random moment between these. Default 5 to 10 minutes.
        watch_retry_seconds: First and longest wait after a failed watch or list, before jitter. Default 0.8 to 30.
        max_object_bytes: The largest object that a watch takes. Default 16 MiB; etcd takes 1.5.
    """

    queries_per_second: float = 50.0
    burst: int = 100
    parallel_requests: int = 32
    connect_timeout_seconds: float = 10.0
    timeout_seconds: float = 60.0
    attempts: int = 5
    retry_delay_seconds: float = 0.5
    max_retry_after_seconds: float = 30.0
    max_body_bytes: int = 64 << 20
    page_size: int = 500
    watch_idle_seconds: float = 150.0
    watch_seconds: tuple[float, float] = (300.0, 600.0)
    watch_retry_seconds: tuple[float, float] = (0.8, 30.0)
    max_object_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        positive = (
            "queries_per_second", "burst", "parallel_requests", "connect_timeout_seconds", "timeout_seconds",
            "attempts", "max_body_bytes", "page_size", "watch_idle_seconds", "max_object_bytes",
        )  # fmt: skip
        for name in positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"kube: {name} must be greater than 0, not {getattr(self, name)}")
        for name in ("retry_delay_seconds", "max_retry_after_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"kube: {name} must not be negative, not {getattr(self, name)}")
        for name in ("watch_seconds", "watch_retry_seconds"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"kube: {name} must be two growing numbers greater than 0, not {low} and {high}")
