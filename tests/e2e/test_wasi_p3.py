"""Components of WASI 0.3, as a user runs them."""

from __future__ import annotations

import json
import shutil
import signal
import urllib.request

from tests.e2e.conftest import Wasmlet
from tests.support.guests import p3_command, p3_http

POD = """
apiVersion: v1
kind: Pod
metadata: { name: third }
spec:
  restartPolicy: Never
  containers:
    - name: main
      image: "file:guest.wasm"
      args: [read, /data/word]
      volumeMounts: [{ name: data, mountPath: /data }]
  volumes: [{ name: data, configMap: { name: data } }]
---
apiVersion: v1
kind: ConfigMap
metadata: { name: data }
data: { word: "from a ConfigMap\\n" }
"""


def test_a_command_runs_reads_and_ends(wasmlet: Wasmlet) -> None:
    shutil.copy(p3_command(), wasmlet.folder / "guest.wasm")
    assert wasmlet("run", "guest.wasm").stdout == b"Hello from WASI 0.3!\n"
    assert wasmlet("run", "guest.wasm", "cat", stdin=b"in and out\n" * 10_000).stdout == b"in and out\n" * 10_000
    assert wasmlet("run", "guest.wasm", "fail", status=1).stdout == b""
    wasmlet("run", "guest.wasm", "exit", "42", status=42)
    assert b"unreachable" in wasmlet("run", "guest.wasm", "trap", status=134).stderr
    manifest = wasmlet.folder / "pod.yaml"
    manifest.write_text(POD)
    assert wasmlet("run", manifest).stdout == b"from a ConfigMap\n"


def test_it_is_inspected_as_experimental(wasmlet: Wasmlet) -> None:
    found = json.loads(wasmlet("inspect", p3_command()).stdout)
    assert (found["kind"], found["wasi"], found["wasiVersion"], found["experimental"]) == (
        "command", "p3", "0.3.2", True,
    )  # fmt: skip
    assert (found["missing"], found["problem"]) == ([], "")


def test_a_server_answers_from_one_instance(wasmlet: Wasmlet) -> None:
    running = wasmlet.start("run", p3_http())
    try:
        assert running.stderr is not None
        url = next(line.decode().strip() for line in running.stderr if b"http://" in line)
        url = "http://" + url.partition("http://")[2]
        answers = [urllib.request.urlopen(f"{url}count", timeout=20).read() for _ in range(3)]
        assert answers == [b"1", b"2", b"3"]
        request = urllib.request.Request(f"{url}echo", data=b"both ways" * 10_000)
        assert urllib.request.urlopen(request, timeout=20).read() == b"both ways" * 10_000
    finally:
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=20)
