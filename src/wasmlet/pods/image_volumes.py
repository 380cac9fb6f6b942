"""Volumes of images (contract 6.4): what an image or artifact holds, read-only, pulled as a container's image is.

They are set up when a container that mounts them starts, so that what fails is the pull of an image and not a mount:
`ErrImagePull`, with its back-off. Each start of a container asks by the volume's pull policy, and gets what the image
is then; containers that run keep what they have. A pod's volume is the image's files by other names (hard links),
below the pod's own directory, like everything that an engine may open.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from wasmlet.base import beneath
from wasmlet.base.errors import WasmletError
from wasmlet.images.image import Image
from wasmlet.images.library import Library
from wasmlet.kube.types import Container, Pod, Volume
from wasmlet.volumes.volume import HostVolume

__all__ = ["check_sub_path", "mounted", "others", "set_up"]

DIRECTORY: Final = "volumes/kubernetes.io~image"
FAILED: Final = "ImageVolumeMountFailed"
"""What a container's message begins with when a part of an image is not there (cri-api, errors.go)."""


def mounted(pod: Pod, container: Container) -> list[Volume]:
    """The image volumes that `container` mounts."""
    names = {mount.name for mount in container.volume_mounts}
    return [volume for volume in pod.spec.volumes if volume.image is not None and volume.name in names]


def others(pod: Pod) -> list[Volume]:
    """The volumes that are there before any container starts."""
    return [volume for volume in pod.spec.volumes if volume.image is None]


async def set_up(library: Library, image: Image, *, name: str, pod_directory: Path) -> HostVolume:
    """The files of `image` as the pod's volume `name`. May be repeated: an image that was laid stays.

    Raises:
        RetryableError: The unpacked image is damaged and cannot be made again now.
        OSError: The disk says no.
    """
    assert image.tree is not None
    volume = pod_directory / DIRECTORY / name
    place = volume / image.tree.chain.removeprefix("sha256:")
    if not place.is_dir():
        volume.mkdir(mode=0o750, parents=True, exist_ok=True)
        half = volume / f".{os.urandom(8).hex()}"
        half.mkdir(mode=0o755)
        try:
            await library.lay(image, half, writable=False)
            half.chmod(0o755)
            half.rename(place)
        except BaseException:
            beneath.remove_tree(half)
            raise
    return HostVolume(path=place, read_only=True, foreign=False)


def check_sub_path(volume: Volume, host: HostVolume, sub_path: str) -> None:
    """Raise WasmletError when an image has no such part: nothing is made in a read-only volume."""
    if volume.image is not None and sub_path and not beneath.exists(host.path, sub_path):
        try:
            beneath.locate(host.path, sub_path)
        except WasmletError as error:
            raise WasmletError(
                f"{FAILED}: {sub_path} is not in image {volume.image.reference}", reason=FAILED
            ) from error
