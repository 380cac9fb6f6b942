"""Flags, environment and file → the settings of each room.

A flag beats the environment, which beats the file, which beats the default. The file is TOML:
`$WASMLET_CONFIG`, else `/etc/wasmlet/config.toml` for root, else `$XDG_CONFIG_HOME/wasmlet/config.toml`. A key that
wasmlet does not know is an error: a setting that was misspelt must not be passed over.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from wasmlet.base.errors import UserError
from wasmlet.base.files import read_if_present
from wasmlet.images.access import VerificationPolicy

NetworkMode = Literal["podcidr", "host"]
NETWORK_MODES: tuple[NetworkMode, ...] = ("podcidr", "host")

MAX_PORT = 65535

KUBECONFIG_NAME = "kubeconfig"
"""The identity that `wasmlet join` keeps in the state directory."""

Port = Annotated[int, msgspec.Meta(ge=0, le=MAX_PORT)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Percent = Annotated[int, msgspec.Meta(ge=0, le=100)]


class File(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """The keys of the configuration file.

    Attributes:
        insecure_registries: Hosts (with port) that are spoken to over plain HTTP; loopback ones need no mention.
        ca_files: PEM files of authorities trusted for registries beside the system's.
        registry_hosts: A directory of hosts.toml files (mirrors, authorities, client certificates); "" is none.
        image_policy: Which images may run: a policy file (docs/reference/image-policy.md); "" lets every image run.
        compile_memory_mib: What one compile may use, in MiB.
        engine_idle_seconds: After how long an empty engine ends.
        agent_idle_seconds: After how long an agent that a command started ends, when no pod lives.
        node_name: What pods are told about their node; default is the host's name.
        shutdown_grace_seconds: What pods have when the machine goes down; 0 is off.
        shutdown_critical_seconds: The last part of that, for critical pods.
        shutdown_grace_by_priority: Instead of both: the lowest priority of a group, and its seconds.
        healthz_port: Where /healthz is answered on loopback without TLS; 0 is off.
        client_ca_file: Whose certificates callers of the kubelet API may show; "" is the cluster's own authority.
        engine_memory_mib: The most that one engine may use where it has a place of its own; 0 is all but 100 MiB.
        engine_cgroup: A directory of cgroup v2 for engines; "" asks systemd for scopes when it runs the agent.
        isolation: Which pods of a network share an engine: those of a `namespace`, of the `node`, or of a `pod` alone.
        uid_range: The users that an agent of root gives to pools of engines, as FIRST:COUNT; `none` gives them none, ""
            is 1880000000:65536 where that can be.
        network: Where pods of a cluster have their addresses: `podcidr` or `host`.
        max_parallel_image_pulls: How many images are pulled at the same time.
        image_gc_high_threshold_percent, image_gc_low_threshold_percent, image_minimum_gc_age_seconds,
        image_maximum_gc_age_seconds: When a node removes unused images (images.collection.Policy).
        pinned_images: Globs of references that it never removes.
        image_pull_credentials_verification_policy, preloaded_images_verification_allowlist: When pods have to prove
            that they may use images which are here (images.access.Verification).
        image_credential_provider_config: The CredentialProviderConfig of kubelet plugins, a file or a directory; "" is
            none. Their programs are in image_credential_provider_bin_dir.
    """

    insecure_registries: list[str] = []
    ca_files: list[str] = []
    registry_hosts: str = ""
    image_policy: str = ""
    compile_memory_mib: Annotated[int, msgspec.Meta(ge=1)] = 2048
    engine_idle_seconds: Seconds = 60.0
    agent_idle_seconds: Seconds = 300.0
    node_name: str = ""
    shutdown_grace_seconds: Seconds = 0.0
    shutdown_critical_seconds: Seconds = 0.0
    shutdown_grace_by_priority: dict[str, Seconds] = {}
    healthz_port: Port = 10248
    client_ca_file: str = ""
    engine_memory_mib: Annotated[int, msgspec.Meta(ge=0)] = 0
    engine_cgroup: str = ""
    isolation: Literal["namespace", "node", "pod"] = "namespace"
    uid_range: str = ""
    network: NetworkMode = "podcidr"
    max_parallel_image_pulls: Annotated[int, msgspec.Meta(ge=1)] = 4
    image_gc_high_threshold_percent: Percent = 85
    image_gc_low_threshold_percent: Percent = 80
    image_minimum_gc_age_seconds: Seconds = 120.0
    image_maximum_gc_age_seconds: Seconds = 0.0
    pinned_images: list[str] = []
    image_pull_credentials_verification_policy: VerificationPolicy = "NeverVerifyPreloadedImages"
    preloaded_images_verification_allowlist: list[str] = []
    image_credential_provider_config: str = ""
    image_credential_provider_bin_dir: str = ""


@dataclass(frozen=True)
class Config:
    """Where everything is, and the file's settings. Built once, by `load`."""

    state: Path
    file: File
    network: NetworkMode = "podcidr"
    image_policy: Path | None = None

    @property
    def node_name(self) -> str:
        """The node's name: lower case, the host's unless the file says another."""
        return (self.file.node_name or socket.gethostname()).lower()


def load(
    *,
    state: str | None = None,
    network: str | None = None,
    image_policy: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """The configuration of this process.

    Args:
        state: The `--state` flag; None takes `$WASMLET_STATE`, then `/var/lib/wasmlet` for root, then
            `$XDG_STATE_HOME/wasmlet` (default `~/.local/state/wasmlet`).
        network: The `--network` flag; None takes `$WASMLET_NETWORK`, then the file's.
        image_policy: The `--image-policy` flag; None takes `$WASMLET_IMAGE_POLICY`, then the file's.

    Raises:
        UserError: The file cannot be read, or says something unknown; so does the environment. Or nothing says where
            the state is, and the user has no home.
    """
    environment = os.environ if environment is None else environment
    chosen = state or environment.get("WASMLET_STATE")
    directory = Path(chosen) if chosen else _default_state(environment)
    path = _file_path(environment)
    file = File() if path is None else _read_file(path, needed=bool(environment.get("WASMLET_CONFIG")))
    mode = network or environment.get("WASMLET_NETWORK")
    policy = image_policy or environment.get("WASMLET_IMAGE_POLICY") or file.image_policy
    return Config(
        state=directory.absolute(),
        file=file,
        network=_network_mode(mode) if mode else file.network,
        image_policy=Path(policy).absolute() if policy else None,
    )


def make_state_directory(config: Config) -> None:
    """Make the state directory; it holds Secrets, so only its owner may enter.

    Raises:
        UserError: It cannot be made or entered.
    """
    try:
        config.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.listdir(config.state)
    except OSError as error:
        why = "it is not a directory" if isinstance(error, FileExistsError) else error.strerror
        raise UserError(
            f"cannot use the state directory {config.state}: {why}", hint="choose another with --state"
        ) from error


def _default_state(environment: Mapping[str, str]) -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/wasmlet")
    home = environment.get("XDG_STATE_HOME")
    if home:
        return Path(home) / "wasmlet"
    try:
        return Path.home() / ".local" / "state" / "wasmlet"
    except RuntimeError:  # a user without a name and without $HOME, as in many containers
        raise UserError("this user has no home directory", hint="choose a place with --state") from None


def _file_path(environment: Mapping[str, str]) -> Path | None:
    """None: this user has no home, so there is no file."""
    if named := environment.get("WASMLET_CONFIG"):
        return Path(named)
    if os.geteuid() == 0:
        return Path("/etc/wasmlet/config.toml")
    home = environment.get("XDG_CONFIG_HOME")
    with contextlib.suppress(RuntimeError):
        return (Path(home) if home else Path.home() / ".config") / "wasmlet" / "config.toml"
    return None


def _network_mode(text: str) -> NetworkMode:
    for mode in NETWORK_MODES:
        if mode == text:
            return mode
    raise UserError(f"{text!r} is no network mode", hint=f"choose {' or '.join(NETWORK_MODES)}")


def _read_file(path: Path, *, needed: bool) -> File:
    try:
        content = path.read_bytes() if needed else read_if_present(path)
        if content is None:
            return File()
        table: dict[str, Any] = tomllib.loads(content.decode())
        return msgspec.convert(table, type=File)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        hint = "see docs/reference/config.md"
        raise UserError(f"cannot read the configuration in {path}: {error}", hint=hint) from error
