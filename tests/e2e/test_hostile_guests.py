"""A choice of the hostile guests of `engine/tests/hostile` as containers of pods, beside a neighbour that goes on.

The whole corpus runs against the engine in `engine/tests/hostile_guests.rs`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Wasmlet
from tests.support.guests import ROOT, built, guest
from tests.support.waiting import eventually_now

POD = """
apiVersion: v1
kind: Pod
metadata: {{ name: hostile }}
spec:
  restartPolicy: {policy}
  containers:
"""

CONTAINER = """
    - name: {name}
      image: "file:{image}"
      resources: {{ limits: {{ memory: 64Mi }} }}
"""

ENDS = {
    "recursion": (134, "Error", "call stack exhausted"),
    "trap-thrown": (134, "Error", "thrown Wasm exception"),
    "pointers": (134, "Error", "out of bounds"),
    "handles": (134, "Error", "no free keys"),
    "files-open": (33, "Error", ""),
    "climb": (0, "Completed", ""),
    "maximum": (0, "Completed", ""),
    "grow": (137, "OOMKilled", "its limit is 67108864"),
    "garbage": (137, "OOMKilled", "memory"),
}

GOES_ON = ("spin-loop", "spin-tail-calls", "fill-table", "sleep", "files-open-on", "output-newlines", "race-swap")


@pytest.fixture
def neighbour(wasmlet: Wasmlet) -> str:
    """A pod that waits."""
    wasmlet("run", "-d", "--name", "neighbour", guest("sleep"))
    return "neighbour"


def start(wasmlet: Wasmlet, *names: str, policy: str) -> None:
    """Start a pod with a container of each."""
    manifest = wasmlet.folder / "hostile.yaml"
    text = POD.format(policy=policy)
    text += "".join(CONTAINER.format(name=name, image=hostile(name)) for name in names)
    manifest.write_text(text)
    wasmlet("run", "-d", manifest)


def hostile(name: str) -> Path:
    return built(ROOT / "engine" / "tests" / "hostile" / f"{name}.wasm")


def statuses(wasmlet: Wasmlet) -> dict[str, dict[str, Any]]:
    """The containers of both pods; the neighbour's under its pod's name."""
    items = json.loads(wasmlet("ps", "-o", "json").stdout)["items"]
    found = {each["metadata"]["name"]: each["status"]["containerStatuses"] for each in items}
    return {each["name"]: each for each in found.get("hostile", [])} | {"neighbour": found["neighbour"][0]}


def is_well(wasmlet: Wasmlet, neighbour: str) -> None:
    found = statuses(wasmlet)[neighbour]
    assert (found["restartCount"], list(found["state"])) == (0, ["running"])
    wasmlet("run", guest("exit"), "--", "7", status=7)


def test_each_ends_as_what_it_is_and_the_neighbour_goes_on(wasmlet: Wasmlet, neighbour: str) -> None:
    start(wasmlet, *ENDS, policy="Never")

    def have_ended() -> bool:
        found = statuses(wasmlet)
        return all("terminated" in found[name]["state"] for name in ENDS)

    eventually_now(have_ended)
    found = statuses(wasmlet)
    for name, (code, reason, said) in ENDS.items():
        ended = found[name]["state"]["terminated"]
        assert (ended["exitCode"], ended["reason"]) == (code, reason), name
        assert said in ended.get("message", ""), name
    refused = wasmlet("run", hostile("shared-memory"), status=126)
    assert b"guests have no threads" in refused.stderr
    is_well(wasmlet, neighbour)


def test_what_goes_on_or_traps_on_is_stopped_as_any_other(wasmlet: Wasmlet, neighbour: str) -> None:
    start(wasmlet, *GOES_ON, "trap-unreachable", policy="Always")

    def backs_off() -> bool:
        waiting = statuses(wasmlet)["trap-unreachable"]["state"].get("waiting", {})
        return bool(waiting.get("reason") == "CrashLoopBackOff")

    eventually_now(backs_off)
    found = statuses(wasmlet)
    ended = found["trap-unreachable"]["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (134, "Error")
    assert [(found[name]["restartCount"], list(found[name]["state"])) for name in GOES_ON] == [(0, ["running"])] * 7
    is_well(wasmlet, neighbour)
    wasmlet("stop", "hostile")
    found = statuses(wasmlet)
    assert [found[name]["state"]["terminated"]["exitCode"] for name in GOES_ON] == [143] * 7
    is_well(wasmlet, neighbour)
