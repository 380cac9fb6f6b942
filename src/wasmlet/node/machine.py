"""What the machine has and is: cores, memory, disk, ids. Read anew each time; everything is a small file.

In a container (the DaemonSet form) the cgroup's limits count, since the engines run in the same one.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wasmlet.base.errors import WasmletError

__all__ = ["Amounts", "Identity", "allocatable", "amounts", "identity"]

ROOT: Final = Path("/")
CGROUP: Final = "sys/fs/cgroup"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which machine this is, and what runs on it. What cannot be found out is empty."""

    machine_id: str
    system_uuid: str
    boot_id: str
    kernel_version: str
    os_image: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """What there is, and what of it is free. Bytes, unless the name says otherwise."""

    cpu_millis: int
    memory: int
    memory_available: int
    swap: int
    disk: int
    disk_available: int
    inodes: int
    inodes_available: int
    pids: int
    pids_available: int


def allocatable() -> dict[str, str]:
    """The machine's cores and memory as quantities, for an agent without a cluster: nothing is reserved for others."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"cpu": str(os.cpu_count() or 1), "memory": f"{memory // 1024}Ki"}


def identity(root: Path = ROOT) -> Identity:
    """The machine's ids, as cadvisor looks for them.

    Args:
        root: Where /etc, /proc and /sys are; tests have their own.
    """
    machine_id = _first(root / "etc/machine-id", root / "var/lib/dbus/machine-id")
    return Identity(
        machine_id=machine_id,
        # Virtual machines without DMI: the device tree's word, else the machine's id, as the kubelet does.
        system_uuid=_first(root / "sys/class/dmi/id/product_uuid", root / "proc/device-tree/vm,uuid") or machine_id,
        boot_id=_first(root / "proc/sys/kernel/random/boot_id"),
        kernel_version=platform.release(),
        os_image=_os_image(root),
    )


def amounts(directory: Path, root: Path = ROOT) -> Amounts:
    """What the machine has now.

    Args:
        directory: The disk that counts is the one this is on.

    Raises:
        WasmletError: /proc or the directory cannot be read.
    """
    try:
        disk = os.statvfs(directory)
    except OSError as error:
        raise WasmletError(f"the state directory {directory} cannot be used: {error.strerror}") from error
    try:
        memory = _meminfo(root)
        cores = os.cpu_count() or 1
        pids = int((root / "proc/sys/kernel/pid_max").read_text())
        running = int((root / "proc/loadavg").read_text().split()[3].partition("/")[2])
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise WasmletError(f"cannot read what this machine has: {error}") from error
    total, available = _limited_memory(root, memory["MemTotal"], memory["MemAvailable"])
    return Amounts(
        cpu_millis=_limited_cpu(root, cores * 1000),
        memory=total,
        memory_available=available,
        swap=memory.get("SwapTotal", 0),
        disk=disk.f_blocks * disk.f_frsize,
        disk_available=disk.f_bavail * disk.f_frsize,
        inodes=disk.f_files,
        inodes_available=disk.f_favail,
        pids=pids,
        pids_available=max(0, pids - running),
    )


def _meminfo(root: Path) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    found = {}
    for line in (root / "proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        value, *unit = rest.split()
        found[name] = int(value) * (1024 if unit == ["kB"] else 1)
    return found


def _limited_memory(root: Path, total: int, available: int) -> tuple[int, int]:
    """Memory and what is free of it, within this container's limit. The host's own root cgroup has none."""
    limit = _number(root / CGROUP / "memory.max")
    if limit is None or limit >= total:
        return total, available
    used = _number(root / CGROUP / "memory.current") or 0
    reclaimable = _inactive_file(root / CGROUP / "memory.stat")
    return limit, max(0, min(available, limit - max(0, used - reclaimable)))


def _limited_cpu(root: Path, millis: int) -> int:
    quota, _, period = _first(root / CGROUP / "cpu.max").partition(" ")
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return millis
    return max(1, min(millis, int(quota) * 1000 // int(period)))


def _inactive_file(path: Path) -> int:
    """Page cache that goes when somebody needs memory: the working set leaves it out (contract: available)."""
    for line in _first(path).splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file" and value.isdigit():
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    text = _first(path)
    return int(text) if text.isdigit() else None


def _first(*paths: Path) -> str:
    """The content of the first of these that can be read and is not empty."""
    for path in paths:
        try:
            if text := path.read_text(errors="replace").strip("\0 \n\t"):
                return text
        except OSError:
            continue
    return ""


def _os_image(root: Path) -> str:
    for line in _first(root / "etc/os-release", root / "usr/lib/os-release").splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return value.strip("\"'")
    return "Unknown"  # as cadvisor says it
