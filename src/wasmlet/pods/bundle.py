"""A pod with the ConfigMaps and Secrets that came with it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from wasmlet.base.files import read_if_present, write_atomically
from wasmlet.kube.objects import Documents
from wasmlet.kube.types import ConfigMap, Pod, Secret

FILE_NAME = "pod.json"
MASK = "***"


class Bundle(msgspec.Struct, rename="camel", kw_only=True):
    """A pod as its source submits it, with the configuration objects that came with it (stand-alone mode).

    `attached` says that a terminal waits for the pod: it is removed when it has ended. `source` is "local", "api"
    or "file": who may say what becomes of it. `file` is a static pod's manifest. `image_policy` is a policy file that
    has to let its images run beside the node's; "" is none.
    """

    pod: Pod
    config_maps: list[ConfigMap] = []
    secrets: list[Secret] = []
    attached: bool = False
    source: str = "local"
    file: str = ""
    image_policy: str = ""

    @property
    def uid(self) -> str:
        """The pod's UID, its identity."""
        return self.pod.metadata.uid

    def masked_secrets(self) -> list[Secret]:
        """The Secrets with every value shown as `***`."""
        return [
            msgspec.structs.replace(
                secret, data=dict.fromkeys(secret.data, MASK), string_data=dict.fromkeys(secret.string_data, MASK)
            )
            for secret in self.secrets
        ]

    def documents(self) -> Documents:
        """The configuration objects as a source for volumes and environments."""
        return Documents(config_maps=self.config_maps, secrets=self.secrets)


def save(directory: Path, bundle: Bundle) -> None:
    """Write it below the pod's directory; it holds Secrets, so only its owner may read it."""
    write_atomically(directory / FILE_NAME, msgspec.json.encode(bundle), mode=0o600)


def load(directory: Path) -> Bundle | None:
    """The saved bundle; None when there is none that can be read."""
    content = read_if_present(directory / FILE_NAME)
    try:
        return None if content is None else msgspec.json.decode(content, type=Bundle)
    except msgspec.DecodeError:
        return None
