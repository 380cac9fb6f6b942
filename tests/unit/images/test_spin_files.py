"""Applications of a spin.toml in an image of files: their components and files, and why others are refused."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.file_images import build, files, put
from tests.unit.images.conftest import COMPONENT
from wasmlet.base.errors import UserError
from wasmlet.images import spin, spin_files
from wasmlet.images.application import place
from wasmlet.images.image import Image
from wasmlet.images.library import Library
from wasmlet.images.manifest import digest_of
from wasmlet.images.settings import Settings

MANIFEST = """
spin_manifest_version = 2

[application]
name = "shop"

[variables]
word = { default = "hello" }

[[trigger.http]]
route = "/..."
component = "front"

[[trigger.http]]
route = { private = true }
component = "hidden"

[[trigger.http]]
route = "/admin/:page"
component = "admin"

[component.front]
source = "target/front.wasm"
files = [{ source = "assets", destination = "/" }, { source = "assets/css", destination = "/deep/css" }]
environment = { MODE = "test" }

[component.front.variables]
greeting = "{{ word }}, world"

[component.hidden]
source = "target/front.wasm"

[component.admin]
source = "/target/front.wasm"
"""
OLD = """
spin_manifest_version = "1"
name = "old"
trigger = { type = "http", base = "/" }

[[component]]
id = "only"
source = "target/front.wasm"
environment = { MODE = "old" }
config = { plain = "text" }
[component.trigger]
route = "/old/..."
"""
TREE = {
    "target/front.wasm": COMPONENT,
    "assets/index.html": b"index",
    "assets/css/style.css": b"style",
    "other.txt": b"not mounted",
}


@pytest.fixture
def library(tmp_path: Path) -> Library:
    return Library(Settings(directory=tmp_path / "images"))


async def found(library: Library, tmp_path: Path, manifest: str | bytes, **fields: object) -> Image:
    content = manifest if isinstance(manifest, bytes) else manifest.encode()
    built = build(files({**TREE, "spin.toml": content}), **fields)  # type: ignore[arg-type]
    name = put(tmp_path / "images", "localhost/test/shop:1", built)
    image, _ = await library.ensure(name, pull_policy="Never")
    return image


async def test_a_manifests_components_are_found(library: Library, tmp_path: Path) -> None:
    image = await found(library, tmp_path, MANIFEST)
    front, admin = image.components
    assert (front.part.name, front.part.routes, front.digest) == ("front", ("/...",), digest_of(COMPONENT))
    assert (admin.part.name, admin.part.routes) == ("admin", ("/admin/:page",))
    assert front.part.environment == (("MODE", "test"),)
    assert [value for _, value, _ in front.part.filled({})] == ["hello, world"]
    assert front.module.read_bytes() == COMPONENT
    assert image.module_name == "front.wasm"
    root = tmp_path / "root"
    root.mkdir()
    await library.lay(image, root, writable=True)
    assert (root / place(0, "index.html")).read_bytes() == b"index"
    assert (root / place(0, "deep/css/style.css")).read_bytes() == b"style"
    assert (root / place(0, "css/style.css")).read_bytes() == b"style"
    assert not (root / place(0, "other.txt")).exists()
    assert [*(root / place(1)).iterdir()] == []


async def test_a_damaged_tree_is_made_again(library: Library, tmp_path: Path) -> None:
    image = await found(library, tmp_path, MANIFEST)
    assert image.tree is not None
    for content in (image.tree.path / "files").iterdir():
        content.unlink()
    root = tmp_path / "root"
    root.mkdir()
    await library.lay(image, root, writable=True)
    assert (root / place(0, "index.html")).read_bytes() == b"index"


async def test_the_older_form_is_read(library: Library, tmp_path: Path) -> None:
    (only,) = (await found(library, tmp_path, OLD)).components
    assert (only.part.name, only.part.routes) == ("only", ("/old/...",))
    assert (only.part.environment, only.part.variables) == ((("MODE", "old"),), (("plain", "text"),))


@pytest.mark.parametrize(
    ("fields", "is_application"),
    [
        ({"Entrypoint": ["/spin.toml"]}, True),
        ({"Cmd": ["/"]}, True),
        ({"Entrypoint": ["/spin.toml"], "platform": ("linux", "amd64")}, True),
        ({"Entrypoint": ["/target/front.wasm"]}, False),
    ],
)
async def test_what_the_image_starts_decides(
    library: Library, tmp_path: Path, fields: dict[str, object], is_application: bool
) -> None:
    assert bool((await found(library, tmp_path, MANIFEST, **fields)).components) == is_application


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('source = "target/front.wasm"', 'source = "none.wasm"', "no file none.wasm"),
        ('source = "target/front.wasm"', 'source = "assets"', "no file assets"),
        ('source = "target/front.wasm"', 'source = "other.txt"', "other.txt, .* is no WebAssembly"),
        ('source = "target/front.wasm"', 'source = { url = "https://x.test" }', "fetched from elsewhere"),
        ('{ source = "assets", destination = "/" }', '"assets/*"', r"by a pattern \(assets/\*\)"),
        ('{ source = "assets", destination = "/" }', '{ source = "assetz", destination = "/" }', "no directory assetz"),
        ('{ source = "assets", destination = "/" }', '{ source = "assets", destination = "/../x" }', "climbs out"),
        ("[[trigger.http]]", "[[trigger.redis]]", "triggers of type redis"),
        ("[application]", "[application", "cannot be read as a Spin manifest"),
        ('component = "admin"', 'component = "nobody"', "no component nobody"),
        ("[component.admin]", "[component.admin.dependencies]", "cannot be read"),
    ],
)
async def test_what_cannot_be_served_is_said(library: Library, tmp_path: Path, old: str, new: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        await found(library, tmp_path, MANIFEST.replace(old, new))


@given(st.binary(max_size=40), st.integers(0, len(MANIFEST)), st.integers(0, 40))
def test_any_manifest_is_an_answer(content: bytes, at: int, length: int) -> None:
    for manifest in (content, MANIFEST[:at].encode() + content + MANIFEST[at + length :].encode()):
        with contextlib.suppress(UserError):
            locked, mounts = spin_files.read(manifest)
            assert {component.id for component, _ in spin.served(locked)} <= mounts.keys()
