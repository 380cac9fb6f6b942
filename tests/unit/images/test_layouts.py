"""Which layouts are read, what is said of the others, and what is written."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from wasmlet.base.errors import UserError
from wasmlet.images.configuration import CONTAINER_CONFIGS, ImageConfig
from wasmlet.images.layouts import (
    _MACHINE,
    COMPONENT_LAYER,
    KRUSTLET_CONFIG,
    KRUSTLET_LAYER,
    MODULE_LAYER,
    WASM_CONFIG,
    WASM_LAYER,
    Binary,
    Layout,
    build,
    choose,
    choose_platform,
    detect_binary,
)
from wasmlet.images.manifest import OCI_MANIFEST, TITLE, Descriptor, Index, Manifest, Platform, digest_of, parse

MODULE = digest_of(b"module")
TAR = "application/vnd.oci.image.layer.v1.tar+gzip"


def blob(media_type: str) -> Descriptor:
    return Descriptor(media_type=media_type, digest=MODULE, size=6)


def manifest(config_type: str, *layers: Descriptor) -> Manifest:
    return Manifest(config=blob(config_type), layers=layers)


@pytest.mark.parametrize(
    ("config_type", "layer_type", "config"),
    [
        (WASM_CONFIG, WASM_LAYER, b'{"architecture":"wasm","os":"wasip1"}'),
        (KRUSTLET_CONFIG, WASM_LAYER, b'{"architecture":"wasm","os":"wasip2"}'),
        (WASM_CONFIG, WASM_LAYER, b"{}"),
        (KRUSTLET_CONFIG, KRUSTLET_LAYER, b"not even JSON"),
        (CONTAINER_CONFIGS[0], KRUSTLET_LAYER, b'{"architecture":"amd64"}'),
        (CONTAINER_CONFIGS[0], WASM_LAYER, b'{"architecture":"wasm"}'),
        (CONTAINER_CONFIGS[0], COMPONENT_LAYER, b'{"architecture":"wasm"}'),
        (WASM_CONFIG, COMPONENT_LAYER, b"{}"),
        ("application/vnd.module.wasm.config.v1+json", MODULE_LAYER, b"{}"),
        ("application/vnd.io.wasm.module.config.v1+json", MODULE_LAYER, b"{}"),
        ("application/vnd.wasmcloud.actor.archive.config", MODULE_LAYER, b"{}"),
    ],
)
def test_layouts_of_one_module_are_read(config_type: str, layer_type: str, config: bytes) -> None:
    choice = choose(manifest(config_type, blob(layer_type)), config)
    assert choice.module is not None
    assert choice.module.digest == MODULE
    assert choice.config == ImageConfig()
    assert choice.module_name == ""


@pytest.mark.parametrize(
    ("title", "name"),
    [("hello.wasm", "hello.wasm"), ("/target/release/x.wasm", "x.wasm"), ("..", ""), ("a/", ""), ("\n", "")],
)
def test_the_layer_s_title_names_the_module(title: str, name: str) -> None:
    layer = Descriptor(media_type=KRUSTLET_LAYER, digest=MODULE, size=6, annotations={TITLE: title})
    assert choose(manifest(KRUSTLET_CONFIG, layer), b"").module_name == name


@pytest.mark.parametrize(
    ("config_type", "layers", "named"),
    [
        (WASM_CONFIG, ["application/vnd.example+x"], ["application/vnd.example+x"]),
        (WASM_CONFIG, [], ["layers none"]),
        (WASM_CONFIG, [WASM_LAYER, TAR], [WASM_LAYER, TAR]),
        (
            CONTAINER_CONFIGS[0],
            ["application/vnd.fermyon.spin.application.v1+config", KRUSTLET_LAYER],
            ["application/vnd.fermyon.spin.application.v1+config"],
        ),
    ],
)
def test_another_layout_is_refused_with_its_types_and_with_ours(
    config_type: str, layers: list[str], named: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        choose(manifest(config_type, *map(blob, layers)), b"{}")
    for text in named:
        assert text in caught.value.message
    assert caught.value.hint is not None
    assert WASM_LAYER in caught.value.hint


def test_two_modules_are_too_many() -> None:
    with pytest.raises(UserError, match="2 Wasm modules"):
        choose(manifest(WASM_CONFIG, blob(WASM_LAYER), blob(WASM_LAYER)), b"{}")


def test_a_config_for_another_architecture_is_refused() -> None:
    with pytest.raises(UserError, match="amd64"):
        choose(manifest(WASM_CONFIG, blob(WASM_LAYER)), b'{"architecture":"amd64"}')


@pytest.mark.parametrize("config_type", CONTAINER_CONFIGS)
def test_a_linux_image_is_told_so(config_type: str) -> None:
    config = b'{"architecture":"arm64","os":"linux","rootfs":{"type":"layers"}}'
    with pytest.raises(UserError, match=r"Linux container image \(linux/arm64\)") as caught:
        choose(manifest(config_type, blob(TAR), blob(TAR)), config)
    assert caught.value.reason == "LinuxImage"


def test_a_file_system_with_wasm_is_read() -> None:
    config = f'{{"architecture":"wasm","os":"wasi","rootfs":{{"diff_ids":["{MODULE}"]}}}}'
    choice = choose(manifest(CONTAINER_CONFIGS[0], blob(TAR)), config.encode())
    assert (choice.module, choice.diff_ids, choice.blobs) == (None, (MODULE,), (blob(TAR),))


def entry(system: str | None, architecture: str = "", media_type: str = OCI_MANIFEST) -> Descriptor:
    platform = None if system is None else Platform(os=system, architecture=architecture)
    return Descriptor(media_type=media_type, digest=MODULE, size=1, platform=platform)


@pytest.mark.parametrize(
    ("entries", "chosen"),
    [
        ([entry("linux", "amd64"), entry("wasip1", "wasm")], 1),
        ([entry("wasip1", "wasm"), entry("wasip2", "wasm")], 1),
        ([entry("linux", "amd64"), entry("wasi", "wasm32")], 1),
        ([entry("linux", "amd64"), entry("js", "wasm")], 1),
        ([entry(None)], 0),
        ([entry(None), entry("unknown", "unknown")], 0),
        ([entry("linux", "s390x"), entry("linux", _MACHINE), entry("unknown", "unknown")], 1),
        ([entry("windows", "amd64"), entry("linux", "s390x")], 1),
    ],
)
def test_the_wasm_platform_of_an_index_is_chosen(entries: list[Descriptor], chosen: int) -> None:
    assert choose_platform(Index(tuple(entries))) is entries[chosen]


@pytest.mark.parametrize(
    ("entries", "named"),
    [([entry("windows", "amd64")], "windows/amd64"), ([entry(None), entry(None)], r"\?/\?"), ([], "none")],
)
def test_an_index_without_wasm_names_its_platforms(entries: list[Descriptor], named: str) -> None:
    with pytest.raises(UserError, match=named) as caught:
        choose_platform(Index(tuple(entries)))
    assert caught.value.reason != "LinuxImage"


@pytest.mark.parametrize(
    ("head", "binary"),
    [(b"\0asm\x01\0\0\0...", Binary.MODULE), (b"\0asm\x0d\0\x01\0", Binary.COMPONENT)],
)
def test_the_head_tells_modules_from_components(head: bytes, binary: Binary) -> None:
    assert detect_binary(head) is binary


@pytest.mark.parametrize(
    ("head", "looks"),
    [
        (b"", "empty"),
        (b"\x7fELF\x02", "ELF"),
        (b"(module)", "text"),
        (b"#!/bin/sh", "something"),
        (b"\0asm\x07", "some"),
    ],
)
def test_what_is_not_wasm_is_named(head: bytes, looks: str) -> None:
    with pytest.raises(UserError, match=looks):
        detect_binary(head)


@pytest.mark.parametrize("layout", ["cncf", "krustlet"])
def test_what_is_written_is_read(layout: Layout) -> None:
    module = Descriptor(media_type="", digest=MODULE, size=6, annotations={TITLE: "x.wasm"})
    created = datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC)
    package = build(layout, module=module, wasi_os="wasip2", created=created, annotations={"a": "b"})
    parsed = parse(package.manifest, "")
    assert isinstance(parsed, Manifest)
    assert parsed.config.digest == digest_of(package.config)
    assert parsed.annotations == {"a": "b"}
    choice = choose(parsed, package.config)
    assert choice.module is not None
    assert (choice.module.digest, choice.module_name) == (MODULE, "x.wasm")


def test_the_cncf_config_has_the_specification_s_fields() -> None:
    module = Descriptor(media_type="", digest=MODULE, size=6)
    created = datetime(2026, 11, 23, 1, 2, 3, tzinfo=UTC)
    package = build("cncf", module=module, wasi_os="wasip2", created=created, annotations={})
    config: dict[str, Any] = json.loads(package.config)
    assert config == {
        "created": "2026-11-23T01:02:03Z",
        "architecture": "wasm",
        "os": "wasip2",
        "layerDigests": [MODULE],
        "component": {"exports": [], "imports": [], "target": None},
    }
    core = build("cncf", module=module, wasi_os="wasip1", created=created, annotations={})
    assert "component" not in json.loads(core.config)
