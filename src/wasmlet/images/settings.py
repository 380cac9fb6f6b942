"""The settings of this room."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from wasmlet.images.access import Verification
from wasmlet.images.proxies import Proxies


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an operator may say about images.

    Attributes:
        directory: The store, an OCI image layout directory; made when it is missing (mode 0700).
        insecure_registries: Registries as references name them (`host` or `host:port`) whose TLS certificate is not
            checked and that may speak plain HTTP. Loopback registries may speak plain HTTP without being named here,
            but when they speak TLS their certificate is checked. Default: none.
        hosts_directory: Where mirrors, authorities and client certificates of registries are told (`hosts`). Default:
            nowhere.
        proxies: Through whom registries are reached. Default: directly.
        ca_files: PEM files with certificate authorities that are trusted beside the system's. Default: none.
        policy_file: Which images may run (`policy`). Default: none, and every image may.
        allow_local_files: Whether `file:/path` references are answered; anybody who may create a pod can then run any
            module that the agent can read. Default: no.
        connect_timeout_seconds: The time to resolve a name, connect and shake hands. Default 10.
        idle_timeout_seconds: The longest time without progress, for an answer to begin and for 16 KiB of a blob to
            move. Default 30.
        max_module_bytes: The largest module that is downloaded; a larger one is refused. Default 1 GiB.
        max_unpacked_bytes: The most that the layers of an image may unpack to; an image with more is refused. Default
            4 GiB.
        verification: When pods have to prove that they may use images which are here. Default: for those that wasmlet
            pulled.
        parallel_pulls: How many images are pulled at the same time; the others wait. Default 4.
        attempts: How often one request is made when the registry fails in passing (429, 5xx, a cut line). Default 3.
        retry_delay_seconds: The wait before the second attempt, doubled for each further one; a Retry-After of the
            registry up to 10 s is obeyed instead, a longer one ends the pull. Default 0.5.
    """

    directory: Path
    insecure_registries: frozenset[str] = frozenset()
    ca_files: tuple[Path, ...] = ()
    hosts_directory: Path | None = None
    proxies: Proxies = field(default_factory=Proxies)
    policy_file: Path | None = None
    allow_local_files: bool = False
    connect_timeout_seconds: float = 10.0
    idle_timeout_seconds: float = 30.0
    max_module_bytes: int = 1 << 30
    max_unpacked_bytes: int = 4 << 30
    verification: Verification = field(default_factory=Verification)
    parallel_pulls: int = 4
    attempts: int = 3
    retry_delay_seconds: float = 0.5

    def __post_init__(self) -> None:
        positive = ("connect_timeout_seconds", "idle_timeout_seconds", "max_module_bytes", "max_unpacked_bytes",
                    "parallel_pulls", "attempts")  # fmt: skip
        for name in positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"images: {name} must be greater than 0, not {getattr(self, name)}")
        if self.retry_delay_seconds < 0:
            raise ValueError(f"images: retry_delay_seconds must not be negative, not {self.retry_delay_seconds}")
