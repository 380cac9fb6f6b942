"""emptyDir volumes: an empty directory, shared by the pod's containers, gone with the pod.

Medium `Memory` is a tmpfs of size min(sizeLimit, the pod's memory limit, the node's allocatable memory) when the agent
may mount. An ordinary user may not: then it is a plain directory, and the log says so. A directory of /dev/shm would
lie outside the pod's own directory, where no engine may look (design section 3), so it is no way out.

`sizeLimit` is not enforced on a plain directory yet: that belongs to eviction (contract section 10).
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
from pathlib import Path

from wasmlet.base import quantity
from wasmlet.kube.types import EmptyDirVolume, Pod
from wasmlet.volumes.fields import PodFields, memory_limit

__all__ = ["set_up", "unmount"]

log = logging.getLogger(__name__)

MODE = 0o777
"""As the kubelet's, so that a container of any user can write."""

MS_NOSUID, MS_NODEV = 0x2, 0x4
MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8
"""linux/mount.h, and umount2(2)."""


def set_up(directory: Path, source: EmptyDirVolume, *, pod: Pod, fields: PodFields) -> None:
    """Make the directory, once; what containers wrote stays.

    Raises:
        UserError: sizeLimit is no quantity.
        OSError: The directory cannot be made or mounted.
    """
    size_limit = None if source.size_limit is None else quantity.ceil(source.size_limit)
    if not directory.is_dir():
        directory.mkdir()
        os.chmod(directory, MODE)
    if source.medium == "Memory" and not os.path.ismount(directory):
        _mount_memory(directory, _memory_bytes(size_limit, pod, fields))


def unmount(directory: Path) -> None:
    """Undo the tmpfs, if there is one.

    Raises:
        OSError: It cannot be unmounted.
    """
    if not os.path.ismount(directory):
        return
    # Detached, since a guest's last descriptor may still be open; the memory is free when it closes.
    if ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(directory), MNT_DETACH | UMOUNT_NOFOLLOW) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(directory))


def _memory_bytes(size_limit: int | None, pod: Pod, fields: PodFields) -> int | None:
    allocatable = fields.allocatable.get("memory")
    bounds = (size_limit, memory_limit(pod), None if allocatable is None else quantity.ceil(allocatable))
    return min((bound for bound in bounds if bound), default=None)


def _mount_memory(directory: Path, size_bytes: int | None) -> None:
    options = f"mode=0{MODE:o}" + ("" if size_bytes is None else f",size={size_bytes}")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", os.fsencode(directory), b"tmpfs", MS_NOSUID | MS_NODEV, options.encode()) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.EPERM, errno.EACCES):
        raise OSError(number, os.strerror(number), str(directory))
    log.warning("emptyDir of medium Memory is on disk: mounting a tmpfs needs root (directory %s)", directory)
