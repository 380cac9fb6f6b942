"""Images for containers and volumes of a pod: when they are pulled, with which logins, and what is told of it
(kubelet-contract section 9).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from wasmlet.base.errors import WasmletError
from wasmlet.images.credentials import Credential, Origin, parse_docker_config, parse_legacy_docker_config
from wasmlet.images.image import Image, PullPolicy
from wasmlet.images.image import Progress as PullProgress
from wasmlet.kube.objects import secret_content
from wasmlet.pods.accounts import Progress
from wasmlet.pods.rooms import Rooms

if TYPE_CHECKING:
    from wasmlet.pods.worker import Worker

__all__ = ["Puller", "duration", "pull_policy"]


class Puller:
    """Has images for one worker's pod."""

    def __init__(self, rooms: Rooms, worker: Worker) -> None:
        self._rooms = rooms
        self._worker = worker

    async def pull(self, container: str, reference: str, policy: PullPolicy, *, for_files: bool = False) -> Image:
        """The image, from the registry where its policy or the store says so.

        Args:
            container: Whose image it is, or whose volume's.
            for_files: A volume's: it need not have anything to run.

        Raises:
            WasmletError: As `Library.ensure`.
        """
        subject = "" if for_files else container  # what is said of a volume's image belongs to the pod
        asked, began = self._rooms.clock(), list[float]()

        def progress(each: PullProgress) -> None:
            if not began:
                began.append(self._rooms.clock())
                self._worker.tell("Normal", "Pulling", f'Pulling image "{reference}"', container=subject)
            news = Progress(
                container=container, stage="pull", subject=reference,
                done_bytes=each.received_bytes, total_bytes=each.total_bytes,
            )  # fmt: skip
            self._rooms.listener.progress(self._worker.bundle.uid, news)

        image, pulled = await self._rooms.library.ensure(
            reference,
            pull_policy=policy,
            credentials=[*await self._pull_secrets(), *self._rooms.credentials()],
            account=self._rooms.account(self._worker.bundle.pod),
            policy_file=Path(own) if (own := self._worker.bundle.image_policy) else None,
            progress=progress,
            for_files=for_files,
        )
        if pulled:
            now = self._rooms.clock()
            pulling, whole = duration(now - began[0] if began else 0.0), duration(now - asked)
            text = f'Successfully pulled image "{reference}" in {pulling} ({whole} including waiting). '
            text += f"Image size: {image.size_bytes} bytes."
        else:
            text = f'Container image "{reference}" already present on machine and can be accessed by the pod'
        self._worker.tell("Normal", "Pulled", text, container=subject)
        return image

    async def _pull_secrets(self) -> list[Credential]:
        """The logins of imagePullSecrets; a missing one is told and passed over (contract section 9)."""
        bundle, found = self._worker.bundle, list[Credential]()
        objects = self._rooms.objects(bundle)
        for reference in bundle.pod.spec.image_pull_secrets:
            try:
                secret = await objects.secret(bundle.pod.metadata.namespace, reference.name)
                content = secret_content(secret)
                logins: tuple[Credential, ...] = ()
                if ".dockerconfigjson" in content:
                    logins = parse_docker_config(content[".dockerconfigjson"], source=f"secret {reference.name}")
                elif ".dockercfg" in content:
                    logins = parse_legacy_docker_config(content[".dockercfg"], source=f"secret {reference.name}")
                meta = secret.metadata
                origin = Origin("Secret", bundle.pod.metadata.namespace, meta.name, meta.uid)
                found += [dataclasses.replace(login, origin=origin) for login in logins]
            except WasmletError as error:
                text = f"Unable to retrieve some image pull secrets ({reference.name}); {error}"
                self._worker.tell("Warning", "FailedToRetrieveImagePullSecret", text)
        return found


def duration(seconds: float) -> str:
    """As Go writes one that was cut to milliseconds: `0s`, `7ms`, `1.05s`, `2m0.5s`."""
    milliseconds = int(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    larger = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{larger}{f'{rest / 1000:.3f}'.rstrip('0').rstrip('.')}s"


def pull_policy(reference: str, policy: str) -> PullPolicy:
    """The policy that is given, or Kubernetes' default: Always for the tag latest or none (contract section 9)."""
    if policy == "Always":
        return "Always"
    if policy == "Never":
        return "Never"
    if policy == "IfNotPresent" or "@" in reference:
        return "IfNotPresent"
    tag = reference.rpartition("/")[2].partition(":")[2]
    return "Always" if tag in ("", "latest") else "IfNotPresent"
