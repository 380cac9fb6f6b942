"""Spin's applications: which components are served, with which routes and files, and why others are refused."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.file_images import files
from tests.unit.images.conftest import COMPONENT
from tests.unit.images.fake_registry import FakeRegistry
from wasmlet.base.errors import UserError
from wasmlet.images import spin
from wasmlet.images.application import Part, place
from wasmlet.images.layouts import KRUSTLET_LAYER, WASM_LAYER
from wasmlet.images.library import Library
from wasmlet.images.manifest import Descriptor, Manifest, digest_of

CONFIG = "application/vnd.oci.image.config.v1+json"
DATA = "application/vnd.wasm.content.layer.v1+data"
BUNDLE = "application/vnd.wasm.content.bundle.v1.tar+gzip"
PAGE = b"<h1>" + b"hello " * 40


def locked(**changes: Any) -> dict[str, Any]:
    """As `spin registry push` writes it."""
    component = {
        "id": "hello",
        "metadata": {"description": "", "allowed_outbound_hosts": []},
        "source": {"content_type": "application/wasm", "content": {"digest": digest_of(COMPONENT)}},
        "env": {"MODE": "production"},
        "files": [
            {"content": {"digest": digest_of(PAGE)}, "path": "site/index.html"},
            {"content": {"digest": digest_of(PAGE)}, "path": "site/copy.html"},
            {"content": {"inline": base64.b64encode(b"tiny").decode(), "digest": digest_of(b"tiny")}, "path": "tiny"},
        ],
        "config": {"greeting": "{{ word }}, world", "token": "{{ secret }}", "plain": "text"},
        **changes.pop("component", {}),
    }
    trigger = {
        "id": "trigger-hello",
        "trigger_type": "http",
        "trigger_config": {"component": "hello", "executor": None, "route": "/..."},
        **changes.pop("trigger", {}),
    }
    return {
        "spin_lock_version": 1,
        "metadata": {"name": "hello", "version": "0.1.0"},
        "variables": {"word": {"default": "hello"}, "secret": {"secret": True}},
        "triggers": [trigger, {**trigger, "id": "second"}],
        "components": [component],
        **changes,
    }


def manifest(application: bytes, *, wasm: str = KRUSTLET_LAYER, also: str = "") -> Manifest:
    blobs = [(wasm, COMPONENT), (DATA, PAGE), *([(also, b"")] if also else []), (spin.APPLICATION, application)]
    layers = tuple(Descriptor(media_type=kind, digest=digest_of(blob), size=len(blob)) for kind, blob in blobs)
    return Manifest(config=Descriptor(media_type=CONFIG, digest=digest_of(b"{}"), size=2), layers=layers)


def variables(part: Part, **given: str) -> dict[str, str]:
    return {name: value for name, value, _ in part.filled(given)}


async def test_an_application_is_pulled(library: Library, fake: FakeRegistry, tmp_path: Path) -> None:
    application = json.dumps(locked()).encode()
    blobs = ((KRUSTLET_LAYER, COMPONENT), (DATA, PAGE), (spin.APPLICATION, application))
    fake.add_manifest("app", fake.manifest(CONFIG, b'{"architecture":"wasm","os":"Wasip1"}', *blobs))
    name = f"{fake.address}/test/hello:app"
    image, _ = await library.ensure(name, pull_policy="IfNotPresent")
    assert (image.digest, image.module_name) == (digest_of(COMPONENT), "hello.wasm")
    (component,) = image.components
    assert component.part.routes == ("/...", "/...")
    assert component.part.environment == (("MODE", "production"),)
    assert variables(component.part) == {"greeting": "hello, world", "plain": "text"}
    assert component.module.read_bytes() == COMPONENT
    root = tmp_path / "root"
    root.mkdir()
    await library.lay(image, root, writable=True)
    files = root / place(0)
    assert (files / "site/index.html").read_bytes() == (files / "site/copy.html").read_bytes() == PAGE
    assert (files / "tiny").read_bytes() == b"tiny"
    assert await library.ensure(name, pull_policy="Never") == (image, False)
    (stored,) = await library.images()
    assert stored.size_bytes > len(application) + 3 * len(PAGE)
    await library.remove(name)


async def test_files_in_archives_are_found_by_their_contents(
    library: Library, fake: FakeRegistry, tmp_path: Path
) -> None:
    """As with SPIN_OCI_ARCHIVE_LAYERS: files have digests, and archives say nothing of their components."""
    other, script = b"other " * 40, b"script " * 40
    admin = {
        **locked()["components"][0],
        "id": "admin",
        "files": [
            {"content": {"digest": digest_of(script)}, "path": "run.js"},
            {"content": {"digest": digest_of(PAGE)}, "path": "index.html"},
        ],
    }
    document = locked(component={"files": [{"content": {"digest": digest_of(PAGE)}, "path": "a/index.html"}]})
    document["components"].append(admin)
    trigger = {"trigger_type": "http", "trigger_config": {"component": "admin", "route": "/admin"}}
    document["triggers"].append(trigger)
    first, second = files({"index.html": PAGE, "unused": other}), files({"../run.js": script, "index.html": PAGE})
    blobs = ((KRUSTLET_LAYER, COMPONENT), (BUNDLE, gzip.compress(first)), (BUNDLE, gzip.compress(second)))
    application = json.dumps(document).encode()
    whole = fake.manifest(CONFIG, b"{}", *blobs, (spin.APPLICATION, application))
    fake.add_manifest("archives", whole)
    image, _ = await library.ensure(f"{fake.address}/test/hello:archives", pull_policy="IfNotPresent")
    root = tmp_path / "root"
    root.mkdir()
    await library.lay(image, root, writable=True)
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert found == {
        place(0, "a/index.html"): PAGE,
        place(1, "index.html"): PAGE,
        place(1, "run.js"): script,
    }
    admin["files"].append({"content": {"digest": digest_of(b"nowhere")}, "path": "lost"})
    lost = fake.manifest(CONFIG, b"{}", *blobs, (spin.APPLICATION, json.dumps(document).encode()))
    fake.add_manifest("lost", lost)
    with pytest.raises(UserError, match="no file for 1/root/lost"):
        await library.ensure(f"{fake.address}/test/hello:lost", pull_policy="IfNotPresent")


def test_an_application_without_files_is_its_component() -> None:
    application = json.dumps(locked(component={"files": []})).encode()
    choice = spin.choose(manifest(application, wasm=WASM_LAYER), application)
    assert (choice.layers, choice.inline) == ((), ())
    assert choice.module is not None
    assert choice.module.digest == digest_of(COMPONENT)


@pytest.mark.parametrize(
    ("changes", "also", "text"),
    [
        ({"trigger": {"trigger_type": "redis"}}, "", "triggers of type redis"),
        ({"triggers": []}, "", "triggers of type none"),
        ({"trigger": {"trigger_config": {"component": "hello", "route": {"private": True}}}}, "", "is private"),
        ({"trigger": {"trigger_config": {"component": "hello", "route": {"private": False}}}}, "", "neither a path"),
        ({"trigger": {"trigger_config": {"static_response": {}, "route": "/x"}}}, "", "/x .* a static response"),
        ({"component": {"files": [{"path": "../../1/root/x", "content": {"inline": ""}}]}}, "", "climbs out"),
        ({"trigger": {"trigger_config": {"component": "other", "route": "/x"}}}, "", "no component other"),
        (
            {"trigger": {"trigger_config": {"component": "hello", "executor": {"type": "wagi"}}}},
            "",
            "executor wagi",
        ),
        ({"component": {"dependencies": {"a:b/c@1.0.0": {}}}}, "", "apart from its dependencies"),
        ({"component": {"source": {"content": {"digest": digest_of(b"else")}}}}, "", "no layer with its component"),
        ({"component": {"source": {}}}, "", "no layer with its component"),
        ({"component": {"files": [{"path": "x", "content": {"digest": digest_of(b"else")}}]}}, "", "with its file x"),
        ({"components": "none"}, "", "Spin application is broken"),
    ],
)
def test_what_cannot_be_served_is_said(changes: dict[str, Any], also: str, text: str) -> None:
    application = json.dumps(locked(**changes)).encode()
    with pytest.raises(UserError, match=text):
        spin.choose(manifest(application, also=also), application)


def test_each_component_has_its_routes_and_files() -> None:
    base = locked()
    admin = {
        **base["components"][0],
        "id": "admin",
        "env": {},
        "config": {},
        "files": [{"content": {"digest": digest_of(PAGE)}, "path": "/page"}],
    }

    def trigger(component: str, route: Any) -> dict[str, Any]:
        return {"trigger_type": "http", "trigger_config": {"component": component, "route": route}}

    triggers = [
        trigger("hello", "/"),
        trigger("admin", "/admin/..."),
        trigger("hidden", {"private": True}),
        trigger("hello", "/hello/:name"),
    ]
    application = json.dumps({**base, "components": [*base["components"], admin], "triggers": triggers}).encode()
    choice = spin.choose(manifest(application), application)
    assert [(part.name, part.routes) for part, _ in choice.parts] == [
        ("hello", ("/", "/hello/:name")),
        ("admin", ("/admin/...",)),
    ]
    assert choice.names == ("0/root/site/index.html", "0/root/site/copy.html", "1/root/page")
    assert [name for name, _ in choice.inline] == ["0/root/tiny"]
    assert choice.module is not None
    assert choice.modules == (choice.module,)


def test_variables_are_the_pods_or_their_defaults() -> None:
    application = json.dumps(locked()).encode()
    ((part, _),) = spin.choose(manifest(application), application).parts
    assert variables(part) == {"greeting": "hello, world", "plain": "text"}
    assert variables(part, WORD="bye", SECRET="x") == {"greeting": "bye, world", "token": "x", "plain": "text"}
    filled = {name: used for name, _, used in part.filled({"SPIN_VARIABLE_WORD": "{{ secret }}", "WORD": "no"})}
    assert filled == {"greeting": {"SPIN_VARIABLE_WORD"}, "plain": set()}
    assert variables(part, SPIN_VARIABLE_WORD="{{ secret }}")["greeting"] == "{{ secret }}, world"


@given(st.binary(max_size=60))
def test_any_document_is_an_answer(content: bytes) -> None:
    with pytest.raises(UserError):
        spin.choose(manifest(content), content)
