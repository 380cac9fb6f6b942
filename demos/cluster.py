"""The announcement's session in a real cluster: `python demos/cluster.py WASMLET DEVCLUSTER`.

A control plane (devcluster), a registry (Debian's docker-registry) and wasmlet as a node start in a temporary
directory; then a stock kubectl shows the node, and applies, waits for, reads and deletes every demo. All of it is gone
afterwards, also after Ctrl-C.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from demos import built

DEMOS: Final = Path(__file__).resolve().parent
NODE: Final = "wasmlet"
# devcluster's own limit is two minutes; five seconds are usual.
START_SECONDS: Final = 130.0
COMMAND_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
# What the demos' manifests name.
SERVED_PORT: Final = 8080
# <sys/prctl.h>
PR_SET_CHILD_SUBREAPER: Final = 36


class DemoError(Exception):
    """The session cannot go on; the message says why."""


@dataclass(frozen=True)
class Session:
    """What the commands of the session need.

    Attributes:
        programs: `wasmlet` and `kubectl`, by the names that are shown.
        environment: Of the commands: credentials, state and home are those of this session.
        folder: Where the commands run, and what they write lies.
        registry: The registry as HOST:PORT.
    """

    programs: dict[str, list[str]]
    environment: dict[str, str]
    folder: Path
    registry: str

    def show(self, *words: str) -> str:
        """Print a command and what it prints, as a terminal would; returns the output.

        Raises:
            DemoError: The command failed, or took longer than a minute.
        """
        print("$", *words, flush=True)
        command = [*self.programs[words[0]], *words[1:]]
        try:
            result = subprocess.run(
                command, env=self.environment, cwd=self.folder, timeout=COMMAND_SECONDS, check=False,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise DemoError(f"no end within {COMMAND_SECONDS:g} s: {' '.join(words)}") from error
        print(result.stdout, flush=True)
        if result.returncode != 0:
            raise DemoError(f"exit status {result.returncode}: {' '.join(words)}")
        return result.stdout


def main(wasmlet: str, devcluster: str) -> int:
    """Start everything, walk the session, end everything; returns 1 when something failed or printed something else."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    adopt_orphans()
    try:
        with contextlib.ExitStack() as stack:
            session = start(stack, str(Path(wasmlet).resolve()), devcluster)
            failed = walk(session)
    except KeyboardInterrupt:
        print("\ninterrupted; everything was ended", file=sys.stderr)
        return 130
    except DemoError as error:
        print(error, file=sys.stderr)
        return 1
    print("some demos failed" if failed else "all demos printed what they should; everything was ended")
    return failed


def walk(session: Session) -> int:
    """The session; returns 1 when a demo printed something else than its expected.txt."""
    session.show("kubectl", "get", "nodes", "-o", "wide")
    failed = 0
    for demo in sorted(path.parent for path in DEMOS.glob("*/pod.yaml")):
        folder = built.folder(demo)
        if folder is None:
            continue
        if (demo / "Dockerfile").exists():
            build = [sys.executable, str(DEMOS / "image.py"), str(demo), f"localhost/{demo.name}:1"]
            archive = subprocess.run(build, stdout=subprocess.PIPE, check=True).stdout
            (session.folder / f"{demo.name}.tar").write_bytes(archive)
            session.show("wasmlet", "load", "--input", f"{demo.name}.tar")
        pod, images = prepare(session, demo)
        for file, name in images.items():
            session.show("wasmlet", "push", str(folder / file), name)
        session.show("kubectl", "apply", "-f", f"{demo.name}.yaml")
        wanted = demo / ("ends.txt" if (demo / "ends.txt").exists() else "expected.txt")
        if look(session, demo, pod) != wanted.read_text():
            print(f"demo {demo.name}: not what {wanted.name} says")
            failed = 1
        session.show("kubectl", "delete", "-f", f"{demo.name}.yaml")
    return failed


def look(session: Session, demo: Path, pod: str) -> str:
    """What a demo printed, answered or ended as."""
    if (demo / "request.txt").exists():
        return ask(session, demo, pod)
    if (demo / "ends.txt").exists():
        return ended(session, pod)
    return wait(session, pod, named=(demo / "expected.txt").read_text().startswith("["))


def ended(session: Session, pod: str) -> str:
    """A line for each container of a pod that breaks on purpose: its name, exit code and reason."""
    session.show("kubectl", "wait", "--for=jsonpath={.status.phase}=Failed", f"pod/{pod}", "--timeout=50s")
    session.show("kubectl", "get", "pod", pod)
    each = "{.name} {.state.terminated.exitCode} {.state.terminated.reason}"
    template = "{range .status.containerStatuses[*]}" + each + '{"\\n"}{end}'
    return session.show("kubectl", "get", "pod", pod, f"--output=jsonpath={template}")


def wait(session: Session, pod: str, *, named: bool) -> str:
    """What a command printed, once it has ended well; `named`: what each container did, with its name before it."""
    session.show("kubectl", "wait", "--for=jsonpath={.status.phase}=Succeeded", f"pod/{pod}", "--timeout=50s")
    if named:
        return session.show("kubectl", "logs", pod, "--all-containers", "--prefix").replace(f"[pod/{pod}/", "[")
    return session.show("kubectl", "logs", pod)


def ask(session: Session, demo: Path, pod: str) -> str:
    """What a server answers to the demo's request, once it is ready."""
    session.show("kubectl", "wait", "--for=condition=Ready", f"pod/{pod}", "--timeout=50s")
    address = session.show("kubectl", "get", "pod", pod, "--output=jsonpath={.status.podIP}")
    url = f"http://{address}:{SERVED_PORT}{(demo / 'request.txt').read_text().strip()}"
    print("$ curl", url, flush=True)
    try:
        with urllib.request.urlopen(url, timeout=COMMAND_SECONDS) as answer:
            body: str = answer.read().decode()
    except OSError as error:
        raise DemoError(f"{url}: {error}") from error
    print(body, flush=True)
    return body


def prepare(session: Session, demo: Path) -> tuple[str, dict[str, str]]:
    """Write the demo's manifest with images of the registry; returns the pod's name, and each image by its file.

    The first image has the pod's name.
    """
    manifest = (demo / "pod.yaml").read_text()
    files = re.findall(r"file:(\S+\.wasm)", manifest)
    if not files and (demo / "Dockerfile").exists():
        (session.folder / f"{demo.name}.yaml").write_text(manifest)
        return demo.name, {}
    if not files:
        raise DemoError(f"{demo / 'pod.yaml'} names no file: image")
    images = {file: f"{session.registry}/{Path(file).stem}:1" for file in files}
    for file, name in images.items():
        manifest = manifest.replace(f"file:{file}", name)
    (session.folder / f"{demo.name}.yaml").write_text(manifest)
    return Path(files[0]).stem, images


# --- what the session runs against ------------------------------------------------------------------------------------


def start(stack: contextlib.ExitStack, wasmlet: str, devcluster: str) -> Session:
    """Start control plane, registry and node; the stack ends them, in the reverse order.

    Raises:
        DemoError: One of them did not start.
    """
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wasmlet-demo-", ignore_cleanup_errors=True)))
    print("starting a control plane, a registry and wasmlet as a node\n", flush=True)
    stack.callback(end_orphans)
    cluster = stack.enter_context(running_cluster(devcluster, folder / "cluster"))
    registry = stack.enter_context(running_registry(folder / "registry"))
    environment = os.environ | {
        "KUBECONFIG": cluster["admin_kubeconfig"],
        "WASMLET_STATE": str(folder / "state"),
        "HOME": str(folder), # nobody's preferences, and a cache that goes with the session
    }  # fmt: skip
    session = Session({"wasmlet": [wasmlet], "kubectl": [devcluster, "kubectl"]}, environment, folder, registry)
    token, pin = cluster["bootstrap_token"], cluster["ca_hash"]
    session.show(
        "wasmlet", "join", "--server", cluster["server"], "--token", token, "--ca-hash", pin, "--node-name", NODE
    )
    log = stack.enter_context((folder / "node.log").open("wb"))
    command = [wasmlet, "node", "--node-name", NODE, "--port", str(free_port()), "--network", "host"]
    print("$", "wasmlet", *command[1:], "&\n", flush=True)
    process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True)
    stack.callback(end, process)
    wait_for_node(session, process)
    return session


def wait_for_node(session: Session, process: subprocess.Popen[bytes]) -> None:
    """Wait until the cluster has the node, and finds it ready."""
    look = [*session.programs["kubectl"], "get", "node", NODE]
    give_up = time.monotonic() + COMMAND_SECONDS
    while subprocess.run(look, env=session.environment, capture_output=True, check=False).returncode != 0:
        if process.poll() is not None or time.monotonic() > give_up:
            raise DemoError(f"no node:\n{(session.folder / 'node.log').read_text(errors='replace')}")
        time.sleep(0.1)
    session.show("kubectl", "wait", "--for=condition=Ready", f"node/{NODE}", "--timeout=50s")


@contextlib.contextmanager
def running_cluster(devcluster: str, directory: Path) -> Iterator[dict[str, Any]]:
    """A control plane; gives the line that it prints when it is ready. The end of its input ends it too."""
    directory.mkdir()
    log = directory / "log"
    command = [devcluster, "up", "--directory", str(directory), "--until-stdin-closes"]
    with log.open("wb") as errors, started(command, stdin=subprocess.PIPE, stderr=errors) as process:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
        line = process.stdout.readline() if ready else b""
        if not line:
            raise DemoError(f"no control plane:\n{log.read_text(errors='replace')}")
        record: dict[str, Any] = json.loads(line)
        yield record


@contextlib.contextmanager
def running_registry(directory: Path) -> Iterator[str]:
    """A registry on a free loopback port; gives HOST:PORT."""
    program = shutil.which("docker-registry")
    if program is None:
        raise DemoError("docker-registry is missing; install it: apt-get install docker-registry")
    directory.mkdir()
    configuration = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(directory)}},
        "http": {"addr": "127.0.0.1:0"},
    }
    (directory / "config.yml").write_text(json.dumps(configuration))  # JSON is YAML
    # Its log comes by the pipe: the address first, and then somebody has to read on, or it would wait for that.
    with started([program, "serve", str(directory / "config.yml")], stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(rb"listening on (127\.0\.0\.1:\d+)", line):
                reader = threading.Thread(target=collections.deque, args=(process.stdout, 0))
                reader.start()
                try:
                    yield found[1].decode()
                finally:
                    process.terminate()
                    reader.join()
                return
        raise DemoError("docker-registry did not start")


@contextlib.contextmanager
def started(command: Sequence[str], **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process of a session of its own: Ctrl-C of the terminal reaches only us, and we end it."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, **streams)
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL when that takes too long."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def adopt_orphans() -> None:
    """Engines outlive their agent: from here on they become our children when it ends, instead of init's."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def end_orphans() -> None:
    """End every child that is left: all of them were adopted."""
    give_up = time.monotonic() + STOP_SECONDS
    while time.monotonic() < give_up:
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def free_port() -> int:
    """A port for the kubelet API."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
