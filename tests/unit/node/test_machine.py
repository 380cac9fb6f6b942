"""What the machine has, from files of the test's own and from the real ones."""

from pathlib import Path

import pytest

from wasmlet.base.errors import WasmletError
from wasmlet.node import machine


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, {
        "proc/meminfo": "MemTotal:  8388608 kB\nMemAvailable: 4194304 kB\nHugePages_Total:  0\nSwapTotal: 1024 kB\n",
        "proc/sys/kernel/pid_max": "32768\n",
        "proc/loadavg": "0.1 0.2 0.3 3/768 4242\n",
        "proc/sys/kernel/random/boot_id": "boot\n",
        "etc/machine-id": "machine\n",
        "etc/os-release": 'NAME="X"\nPRETTY_NAME="X Linux 1"\n',
    })  # fmt: skip
    return tmp_path


def test_amounts(root: Path) -> None:
    found = machine.amounts(root, root)
    assert (found.memory, found.memory_available, found.swap) == (8 << 30, 4 << 30, 1 << 20)
    assert (found.pids, found.pids_available) == (32768, 32000)
    assert 0 < found.disk_available <= found.disk
    assert found.cpu_millis % 1000 == 0


def test_a_containers_limits_count(root: Path) -> None:
    write(root, {
        "sys/fs/cgroup/memory.max": f"{1 << 30}\n",
        "sys/fs/cgroup/memory.current": f"{600 << 20}\n",
        "sys/fs/cgroup/memory.stat": f"anon 1\ninactive_file {100 << 20}\n",
        "sys/fs/cgroup/cpu.max": "50000 100000\n",
    })  # fmt: skip
    found = machine.amounts(root, root)
    assert (found.memory, found.memory_available) == (1 << 30, (1 << 30) - (500 << 20))
    assert found.cpu_millis == 500


def test_a_container_without_limits_has_the_machine(root: Path) -> None:
    write(root, {"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/cpu.max": "max 100000\n"})
    assert machine.amounts(root, root).memory == 8 << 30
    assert machine.amounts(root, root).cpu_millis >= 1000


def test_a_machine_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(WasmletError, match="cannot read what this machine has"):
        machine.amounts(tmp_path, tmp_path)


def test_identity(root: Path) -> None:
    found = machine.identity(root)
    assert (found.machine_id, found.boot_id, found.os_image) == ("machine", "boot", "X Linux 1")
    assert found.system_uuid == "machine"
    write(root, {"sys/class/dmi/id/product_uuid": "UUID\n"})
    assert machine.identity(root).system_uuid == "UUID"


def test_identity_of_nothing(tmp_path: Path) -> None:
    found = machine.identity(tmp_path)
    assert (found.machine_id, found.system_uuid, found.boot_id, found.os_image) == ("", "", "", "Unknown")


def test_this_machine(tmp_path: Path) -> None:
    assert machine.amounts(tmp_path).memory > 1 << 26
    assert machine.identity().boot_id
    assert set(machine.allocatable()) == {"cpu", "memory"}
