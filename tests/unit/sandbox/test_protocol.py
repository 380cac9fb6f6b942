"""The golden examples, and what Python makes of them."""

import json
from pathlib import Path

import msgspec
import pytest

from tests.support.guests import ROOT
from wasmlet.sandbox import protocol

FRAMES = ROOT / "protocol" / "examples" / "ExecFrames.json"  # of test_exec_stream
EXAMPLES = sorted({*(ROOT / "protocol" / "examples").glob("*.json")} - {FRAMES})


def test_there_are_examples_of_every_document() -> None:
    kinds = {
        name
        for name, kind in vars(protocol).items()
        if isinstance(kind, type) and issubclass(kind, protocol.Document) and kind is not protocol.Document
    }
    nested = {
        "Budget",
        "Confinement",
        "Artifact",
        "EnvVar",
        "Component",
        "Mount",
        "Log",
        "Http",
        "Network",
        "Usage",
    }  # documents of their own nowhere
    assert {path.name.partition(".")[0] for path in EXAMPLES} == kinds - nested


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_goes_through_unchanged(path: Path) -> None:
    kind = getattr(protocol, path.name.partition(".")[0])
    document = msgspec.json.decode(path.read_bytes(), type=kind)
    assert json.loads(msgspec.json.encode(document)) == json.loads(path.read_bytes())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_unknown_fields_are_ignored(path: Path) -> None:
    kind = getattr(protocol, path.name.partition(".")[0])
    more = json.loads(path.read_bytes()) | {"fieldOfTheFuture": {"a": [1]}}
    assert msgspec.json.decode(json.dumps(more).encode(), type=kind) == msgspec.json.decode(
        path.read_bytes(), type=kind
    )


def test_an_unknown_event_type_is_no_error() -> None:
    text = b'{"incarnation":"a","sequence":1,"time":"t","type":"of-the-future"}'
    assert msgspec.json.decode(text, type=protocol.Event).type == "of-the-future"


def test_secrets_are_not_shown() -> None:
    shown = repr([protocol.EnvVar(name="A", value="open"), protocol.EnvVar(name="B", value="hidden", secret=True)])
    assert "open" in shown
    assert "hidden" not in shown
