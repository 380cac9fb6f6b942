"""A Linux node beside wasmlet: the kubelet of devcluster, with Debian's containerd and runc.

All of it lives in a mount and a process namespace of its own, so that one SIGKILL ends every shim and container, and no
mount, socket or network namespace is left. The programs come by `make linux-node`, which unpacks Debian's packages in
the cache and installs nothing.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import secrets
import select
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.cluster import Cluster, program
from tests.support.node import free_port
from tests.support.processes import processes_of
from tests.support.waiting import eventually_now

NAME: Final = "linux"
IMAGE: Final = "wasmlet.test/busybox:1"
START_SECONDS: Final = 60.0
CGROUPS: Final = Path("/sys/fs/cgroup")
# The kubelet sets these for the whole machine when it starts.
KERNEL_SETTINGS: Final = (
    "vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
)  # fmt: skip

CONTAINERD: Final = """
version = 2
root = "{directory}/root"
state = "{directory}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper"]
[grpc]
  address = "{directory}/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{directory}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{runc}"
"""


@dataclass(frozen=True)
class LinuxNode:
    """Attributes: `directory` has all of its files; `bridge` is its network device in the machine."""

    directory: Path
    bridge: str

    def left_over(self) -> list[str]:
        """What is still there of it: processes, mounts, the device, files. Nothing once it has ended.

        Its end waits for its cgroups itself; their parent, `k8s.io`, may be another node's too.
        """
        found = [f"process {pid}" for pid in processes_of(self.directory)]
        found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(self.directory) in line]
        places = [self.directory, Path("/sys/class/net") / self.bridge]
        return found + [str(each) for each in places if each.exists()]


@functools.cache
def search_path() -> str:
    """Where the programs are: those that `make linux-node` has unpacked, then the machine's."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wasmlet" / "linux-node"
    return os.pathsep.join([*(str(cache / each) for each in ("usr/bin", "usr/sbin", "bin")), os.environ["PATH"]])


def find(name: str) -> str:
    """A program's path.

    Raises:
        pytest.fail.Exception: It is missing.
    """
    found = shutil.which(name, path=search_path())
    return found or pytest.fail(f"{name} is missing for the Linux node; get it: make linux-node")


def refusal() -> str:
    """Why this machine can run no Linux node; empty when it can."""
    if os.geteuid() != 0:
        return "only root can make the namespaces and cgroups of a Linux node"
    if missing := [each for each in ("unshare", "nsenter", "setpriv", "mount", "ip") if shutil.which(each) is None]:
        return f"programs of util-linux and iproute2 are missing: {', '.join(missing)}"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/run"],
        capture_output=True,
        check=False,
    )
    if tried.returncode:
        return f"this machine refuses mounts in a namespace: {tried.stderr.decode().strip()}"
    cgroups = CGROUPS / "memory" if (CGROUPS / "memory").is_dir() else CGROUPS
    probe = cgroups / f"wasmlet-test-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return f"this machine refuses cgroups: {error}"
    return ""


@contextlib.contextmanager
def running_linux_node(cluster: Cluster) -> Iterator[LinuxNode]:
    """A Linux node named `linux` that is ready, until the context ends; its image is `IMAGE`, a busybox."""
    with contextlib.ExitStack() as stack:
        # Not the test's directory: paths of sockets are short.
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="linux-node-", ignore_cleanup_errors=True))
        )
        stack.enter_context(_kept_kernel_settings())
        bridge = f"wl{secrets.token_hex(4)}"
        stack.callback(_end_devices, directory, bridge)
        inside = stack.enter_context(_namespaces())
        _write_containerd(directory, bridge)
        _write_kubelet(directory, cluster)
        with _started([*inside, find("containerd"), "--config", directory / "config.toml"], directory, "containerd"):
            ctr: list[str | Path] = [
                *inside,
                find("ctr"),
                "--address",
                directory / "containerd.sock",
                "--namespace",
                "k8s.io",
            ]
            eventually_now(lambda: _succeeds([*ctr, "version"]), "containerd", seconds=START_SECONDS)
            subprocess.run([*ctr, "images", "import", _image(directory)], check=True, capture_output=True)
            with _started([*inside, *_kubelet(directory, cluster)], directory, "kubelet"):
                try:
                    _wait_for_node(cluster)
                except AssertionError:
                    pytest.fail((directory / "kubelet.log").read_text(errors="replace")[-4000:])
                yield LinuxNode(directory, bridge)


def _kubelet(directory: Path, cluster: Cluster) -> list[str | Path]:
    return [
        program(), "kubelet", f"--config={directory / 'kubelet.json'}", f"--root-dir={directory / 'kubelet'}",
        f"--kubeconfig={directory / 'kubeconfig'}", f"--bootstrap-kubeconfig={cluster.bootstrap_kubeconfig}",
        f"--cert-dir={directory / 'pki'}", f"--hostname-override={NAME}",
    ]  # fmt: skip


def _wait_for_node(cluster: Cluster) -> None:
    names = ("get", "nodes", "--output=name")
    eventually_now(
        lambda: f"node/{NAME}" in cluster.kubectl(*names).stdout.decode(), "registered", seconds=START_SECONDS
    )

    def ready() -> bool:
        shown = cluster.kubectl("get", "node", NAME, "-o", 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')
        return shown.stdout == b"True"

    eventually_now(ready, "ready", seconds=START_SECONDS)


# --- files ------------------------------------------------------------------------------------------------------------


def _write_containerd(directory: Path, bridge: str) -> None:
    plugins = Path(find("containerd")).parents[1] / "lib" / "cni"
    if not (plugins / "bridge").exists():
        plugins = Path("/usr/lib/cni")
    text = CONTAINERD.format(directory=directory, image=IMAGE, plugins=plugins, runc=find("runc"))
    (directory / "config.toml").write_text(text)
    # Without a gateway the plugin turns no forwarding on in the machine.
    network = {
        "cniVersion": "0.4.0", "name": "tests", "plugins": [{
            "type": "bridge", "bridge": bridge, "isGateway": False,
            "ipam": {"type": "host-local", "subnet": "198.18.1.0/24", "dataDir": str(directory / "addresses")},
        }],
    }  # fmt: skip
    (directory / "cni").mkdir()
    (directory / "cni" / "tests.conflist").write_text(json.dumps(network))


def _write_kubelet(directory: Path, cluster: Cluster) -> None:
    (directory / "resolv.conf").touch()
    configuration: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "authentication": {"x509": {"clientCAFile": str(cluster.ca_file)}, "anonymous": {"enabled": False}},
        "containerRuntimeEndpoint": f"unix://{directory / 'containerd.sock'}",
        "port": int(free_port()), "healthzPort": 0,
        "resolvConf": str(directory / "resolv.conf"), "podLogsDir": str(directory / "pods"),
        "failSwapOn": False, "failCgroupV1": False, "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": False, "enforceNodeAllocatable": [], "oomScoreAdj": 0,
        # A disk that is nearly full is no matter here.
        "evictionHard": {"memory.available": "1Mi"}, "imageGCHighThresholdPercent": 100,
    }  # fmt: skip
    (directory / "kubelet.json").write_text(json.dumps(configuration))


def _image(directory: Path) -> Path:
    """An archive, as `docker save` writes it: a busybox that sleeps when it is told nothing. Also the pause image."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(find("busybox"), "bin/busybox")
    content = layer.getvalue()
    configuration = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine], "os": "linux",
        "config": {"Cmd": ["/bin/busybox", "sleep", "1000000"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(content).hexdigest()}"]},
    }  # fmt: skip
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    files: Mapping[str, bytes] = {
        "layer.tar": content,
        "config.json": json.dumps(configuration).encode(),
        "manifest.json": json.dumps(manifest).encode(),
    }
    archive = directory / "image.tar"
    with tarfile.open(archive, mode="w") as tar:
        for name, each in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(each)
            tar.addfile(entry, io.BytesIO(each))
    return archive


# --- what has to be ended ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _namespaces() -> Iterator[list[str | Path]]:
    """New namespaces for mounts and processes; gives the words that run a command there. They end with this process."""
    command = [
        "setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
        sys.executable, str(Path(__file__).with_name("namespace_init.py")),
    ]  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            select.select([process.stdout], [], [], START_SECONDS)
            assert process.stdout.readline() == b"ready\n"
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            yield ["nsenter", "--target", children[0], "--mount", "--pid", "--"]
        finally:
            process.kill()


@contextlib.contextmanager
def _started(command: list[str | Path], directory: Path, name: str) -> Iterator[None]:
    environment = {**os.environ, "PATH": search_path()}
    with (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _kept_kernel_settings() -> Iterator[None]:
    """What the kubelet sets for the whole machine is set back."""
    files = [each for name in KERNEL_SETTINGS if (each := Path("/proc/sys") / name).exists()]
    before = {each: each.read_text() for each in files}
    try:
        yield
    finally:
        for each, text in before.items():
            if each.read_text() != text:
                each.write_text(text)


def _end_devices(directory: Path, bridge: str) -> None:
    """Remove the bridge, and cgroups of containers that were killed: they are the machine's, not the namespaces'."""
    subprocess.run(["ip", "link", "delete", bridge], capture_output=True, check=False)
    tasks = directory / "state" / "io.containerd.runtime.v2.task" / "k8s.io"
    ids = [each.name for each in tasks.iterdir()] if tasks.is_dir() else []
    hierarchies = [each for each in (CGROUPS, *CGROUPS.iterdir()) if (each / "k8s.io").is_dir()]
    for hierarchy in hierarchies:
        for each in ids:
            eventually_now(functools.partial(_removed, hierarchy / "k8s.io" / each), each)
        with contextlib.suppress(OSError):  # another's are there
            (hierarchy / "k8s.io").rmdir()


def _removed(cgroup: Path) -> bool:
    """Whether it is gone; processes of it that were killed may need a moment."""
    try:
        cgroup.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _succeeds(command: list[str | Path]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
