"""Why a container could not be started, or a volume not be made, as the pod shows it (kubelet-contract 4.4). Pure.

The stage of the start says which reason, and how long the pod waits before it is tried again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from wasmlet.base.errors import Fault, GuestError, NotFoundError, WasmletError
from wasmlet.images import policy
from wasmlet.images.layouts import LINUX_IMAGE
from wasmlet.kube.types import Container, Volume
from wasmlet.pods import environment, plan
from wasmlet.pods.facts import Failure
from wasmlet.pods.rooms import Settings

__all__ = ["StageError", "failure", "in_stage", "news", "of_volume"]

_SHOWN = {
    "image": "ErrImagePull",
    "config": "CreateContainerConfigError",
    "create": "CreateContainerError",
}
_OF_THE_NAME = {"ErrImageNeverPull": "ErrImageNeverPull", "InvalidImageName": "InspectFailed"}
_OWN_REASONS = ("ErrImageNeverPull", "InvalidImageName", policy.REASON, environment.REASON)


class StageError(Exception):
    """An error, the stage of the start in which it came, and the image of a volume that it is about."""

    def __init__(self, stage: str, error: WasmletError, *, image: str = "") -> None:
        super().__init__(str(error))
        self.stage = stage
        self.error = error
        self.image = image


@contextlib.contextmanager
def in_stage(name: str, *, image: str = "") -> Iterator[None]:
    """Give errors of the stage its name, and the image of a volume; errors of the disk become ours."""
    try:
        yield
    except GuestError as error:
        raise StageError("create", error) from error
    except WasmletError as error:
        raise StageError(name, error, image=image) from error
    except OSError as error:
        raise StageError(name, _of_disk(error), image=image) from error


@contextlib.contextmanager
def of_volume(volume: Volume) -> Iterator[None]:
    """Errors say which volume they are about, in the kubelet's words (contract section 12)."""
    text = f'MountVolume.SetUp failed for volume "{volume.name}" : '
    try:
        yield
    except WasmletError as error:
        error.message = text + error.message
        raise
    except OSError as error:
        raise _of_disk(error, text) from error


def failure(
    container: Container, failed: StageError, before: Failure | None, *, settings: Settings, now: float
) -> Failure:
    """The fact, which says when the start is tried again.

    Args:
        before: The failure of the try before this one.
    """
    error, message = failed.error, str(failed.error)
    if error.reason == "ErrImageNeverPull":
        message = error.message  # the kubelet's words, and no more
    elif error.reason == "InvalidImageName":
        message = f'Failed to apply default image tag "{failed.image or container.image}": {error}'
    shown = error.reason if error.reason in _OWN_REASONS else _SHOWN[failed.stage]
    stage = "image" if error.fault is Fault.GUEST else failed.stage  # a guest that cannot run is retried rarely
    delay = plan.retry_delay(before, stage=stage, back_off=settings.back_off, sync_seconds=settings.sync_seconds)
    if error.reason == LINUX_IMAGE:  # it has been pulled; only another image under its name can change that
        shown, stage, delay = "CreateContainerError", "create", settings.back_off.maximum_seconds
    return Failure(
        stage=stage, shown=shown, message=message, error=str(error), cause=error.reason, fault=error.fault.value,
        not_found=failed.stage == "image" and isinstance(error, NotFoundError),
        at=now, count=1 + (before.count if before else 0), retry_at=now + delay, image=failed.image,
    )  # fmt: skip


def news(container: Container, failure: Failure) -> list[tuple[str, str, str]]:
    """Reason, text and container of its events, in their order (contract section 12).

    What is said of the image comes first, and belongs to the pod when the image is a volume's.
    """
    subject = "" if failure.image else container.name
    if failure.shown in ("ErrImagePull", policy.REASON):
        text = f'Failed to pull image "{failure.image or container.image}": {failure.message}'
        first = ("Failed", text, subject)
    elif failure.shown in _OF_THE_NAME:
        first = (_OF_THE_NAME[failure.shown], failure.message, subject)
    else:
        return [("Failed", f"Error: {failure.message}", container.name)]
    return [first, ("Failed", f"Error: {failure.shown}", container.name)]


def _of_disk(error: OSError, text: str = "") -> WasmletError:
    about = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    return WasmletError(text + about, hint="see to the node's disk")
