"""Values that tests start from."""

from pathlib import Path
from typing import Any

from wasmlet.node.machine import Amounts, Identity
from wasmlet.node.settings import Settings

GIB = 1 << 30

IDENTITY = Identity(machine_id="m", system_uuid="s", boot_id="b", kernel_version="6.1", os_image="Debian")


def amounts(**changes: int) -> Amounts:
    values = {
        "cpu_millis": 4000, "memory": 8 * GIB, "memory_available": 6 * GIB, "swap": 0, "disk": 100 * GIB,
        "disk_available": 50 * GIB, "inodes": 1000, "inodes_available": 900, "pids": 1000, "pids_available": 900,
    }  # fmt: skip
    return Amounts(**(values | changes))


def settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {"name": "n", "directory": Path("/"), "pki_directory": Path("/nowhere")}
    return Settings(**(values | changes))
