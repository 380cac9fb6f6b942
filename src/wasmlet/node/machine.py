"""What the machine has: capacity as the Node object and resourceFieldRef give it."""

from __future__ import annotations

import os


def allocatable() -> dict[str, str]:
    """The machine's cores and memory as quantities; nothing is reserved for others yet."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"cpu": str(os.cpu_count() or 1), "memory": f"{memory // 1024}Ki"}
