"""A real control plane for tests: `devcluster up` in a directory of the test's own, ended whatever happens.

The program is built when its sources have no binary yet, which takes a quarter of an hour once (devcluster/README.md).
"""

import contextlib
import functools
import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

SOURCES: Final = Path(__file__).parents[2] / "devcluster"
# devcluster's own limit is 120 s; ten are usual.
START_SECONDS: Final = 130.0
# Each of four components has ten seconds to end; two in all are usual.
STOP_SECONDS: Final = 45.0
KUBECTL_SECONDS: Final = 50.0


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes:
        server: The API server's URL.
        ca_file: The authority that signs the API server's and the nodes' certificates.
        ca_key_file: Its key, for certificates of the test's own.
        ca_hash: The pin of its public key, as `sha256:…`.
        admin_kubeconfig: Credentials in the group system:masters.
        bootstrap_kubeconfig: Credentials of a node that has nothing but the bootstrap token.
        kubelet_client_certificate: Who the API server is to a kubelet.
        processes: Process ids by component.
        process: The one that owns them.
    """

    directory: Path
    server: str
    ca_file: Path
    ca_key_file: Path
    ca_hash: str
    admin_kubeconfig: Path
    bootstrap_kubeconfig: Path
    bootstrap_token: str
    kubelet_client_certificate: Path
    kubelet_client_key: Path
    kubernetes_version: str
    ready_seconds: float
    processes: Mapping[str, int]
    process: subprocess.Popen[bytes] = field(repr=False)

    def kubectl(
        self, *arguments: str | Path, kubeconfig: Path | None = None, status: int | None = 0, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run kubectl to its end.

        Args:
            kubeconfig: Whose credentials; None: the administrator's.
            status: The exit status to hold it to; None: any.
        """
        result = subprocess.run(
            [program(), "kubectl", *map(str, arguments)],
            env=self._environment(kubeconfig), input=stdin, capture_output=True, timeout=KUBECTL_SECONDS, check=False,
        )  # fmt: skip
        if status is not None:
            assert result.returncode == status, (result.returncode, result.stdout, result.stderr)
        return result

    @contextlib.contextmanager
    def started_kubectl(self, *arguments: str | Path, output: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Run kubectl beside the test, by the administrator, with `output` for both its streams."""
        command = [str(program()), "kubectl", *map(str, arguments)]
        with output.open("wb") as stream:
            process = subprocess.Popen(command, env=self._environment(None), stdout=stream, stderr=stream)
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def _environment(self, kubeconfig: Path | None) -> dict[str, str]:
        return {
            **os.environ,
            "KUBECONFIG": str(kubeconfig or self.admin_kubeconfig),
            # Nobody's preferences, and a cache that goes with the cluster.
            "HOME": str(self.directory / "home"),
        }

    def log(self, component: str) -> str:
        """What a component has written."""
        return (self.directory / "logs" / f"{component}.log").read_text(errors="replace")

    def is_running(self) -> bool:
        """Whether any of its processes is left."""
        return self.process.poll() is None or any(map(_is_alive, self.processes.values()))


@functools.cache
def program() -> Path:
    """The built program."""
    built = subprocess.run(["sh", SOURCES / "build.sh"], stdout=subprocess.PIPE, check=False)
    if built.returncode:
        pytest.fail(f"devcluster cannot be built: {SOURCES / 'build.sh'}")
    return Path(os.fsdecode(built.stdout).strip())


@contextlib.contextmanager
def running_cluster(
    directory: Path,
    *,
    emulated_version: str | None = None,
    address: str | None = None,
    cluster_cidr: str | None = None,
    extra: Sequence[str] = (),
) -> Iterator[Cluster]:
    """Run a cluster in `directory` until the context ends; one that ran there before goes on, on the same ports.

    Args:
        emulated_version: An older minor version to behave as, such as "1.34".
        address: Where the API server listens; None: loopback, and the Service `kubernetes` has no endpoints.
        cluster_cidr: What the nodes' pod ranges are cut from; None: 10.244.0.0/16, so that at most one cluster of a
            machine may have nodes whose pods have addresses of their own.
        extra: Arguments for components, such as "kube-controller-manager=--node-monitor-grace-period=8s".
    """
    command: list[str | Path] = [program(), "up", "--directory", directory, "--until-stdin-closes"]
    if emulated_version is not None:
        command.append(f"--emulated-version={emulated_version}")
    if address is not None:
        command.append(f"--address={address}")
    if cluster_cidr is not None:
        command.append(f"--cluster-cidr={cluster_cidr}")
    command.extend(f"--extra={each}" for each in extra)
    directory.mkdir(parents=True, exist_ok=True)
    errors = directory / "devcluster.log"
    with (
        errors.open("wb") as stderr,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr) as process,
    ):
        try:
            yield _cluster(directory, process, _ready_line(process, errors))
        finally:
            _stop(process)


def _ready_line(process: subprocess.Popen[bytes], errors: Path) -> bytes:
    assert process.stdout is not None
    # The line is one write, and an end without it closes the pipe.
    select.select([process.stdout], [], [], START_SECONDS)
    os.set_blocking(process.stdout.fileno(), False)
    line = process.stdout.readline()
    if not line:
        pytest.fail(f"no cluster within {START_SECONDS:g} s:\n{errors.read_text(errors='replace')}")
    return line


def _cluster(directory: Path, process: subprocess.Popen[bytes], line: bytes) -> Cluster:
    record = json.loads(line)
    return Cluster(
        directory=directory,
        server=record["server"],
        ca_file=Path(record["ca_file"]),
        ca_key_file=Path(record["ca_key_file"]),
        ca_hash=record["ca_hash"],
        admin_kubeconfig=Path(record["admin_kubeconfig"]),
        bootstrap_kubeconfig=Path(record["bootstrap_kubeconfig"]),
        bootstrap_token=record["bootstrap_token"],
        kubelet_client_certificate=Path(record["kubelet_client_certificate"]),
        kubelet_client_key=Path(record["kubelet_client_key"]),
        kubernetes_version=record["kubernetes_version"],
        ready_seconds=record["ready_seconds"],
        processes=record["processes"],
        process=process,
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()  # the kernel ends the components with it
        process.wait()


def _is_alive(pid: int) -> bool:
    """Whether it runs; a process that only waits to be collected does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"
