"""Images of files, from registries and in the store: unpacked once, made again when damaged, gone with their images."""

import asyncio
import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import small_disk
from tests.support.file_images import COMPRESSIONS, Built, archive, build, directory, files, link, member, put
from tests.support.registry import RunningRegistry
from tests.unit.images.conftest import MODULE
from tests.unit.images.fake_registry import FakeRegistry
from wasmlet.base.errors import RetryableError, UserError
from wasmlet.images.configuration import ImageConfig, chain_id
from wasmlet.images.image import Image
from wasmlet.images.library import Library
from wasmlet.images.manifest import OCI_INDEX, digest_of
from wasmlet.images.settings import Settings

APP = MODULE + b"\0\x02\x01x"  # with a custom section


def add(registry: FakeRegistry, tag: str, built: Built) -> str:
    """Put it into a registry."""
    for blob in built.blobs.values():
        registry.add_blob(blob)
    registry.add_manifest(tag, json.loads(built.manifest))
    return f"{registry.address}/test/hello:{tag}"


def trees_of(settings: Settings) -> list[str]:
    directory = settings.directory / "trees"
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


async def laid(library: Library, image: Image, place: Path, *, writable: bool = True) -> Path:
    place.mkdir()
    await library.lay(image, place, writable=writable)
    return place


@pytest.mark.parametrize("compression", COMPRESSIONS)
async def test_an_image_of_files_is_pulled_and_unpacked(
    library: Library, fake: FakeRegistry, tmp_path: Path, compression: str, settings: Settings
) -> None:
    built = build(
        files({"app.wasm": APP, "etc/motd": b"hello"}),
        files({"etc/more": b"x"}),
        compression=compression,
        Entrypoint=["/app.wasm"],
        Cmd=["serve"],
        Env=["A=1", "B=x=y", "PATH=/bin"],
        WorkingDir="/etc",
        ExposedPorts={"3000/tcp": {}, "53/udp": {}, "80": {}},
        User="65532",
    )
    name = add(fake, "v1", built)
    image, pulled = await library.ensure(name, pull_policy="Always")
    assert pulled
    assert image.config == ImageConfig(
        entrypoint=("/app.wasm",),
        command=("serve",),
        environment=(("A", "1"), ("B", "x=y"), ("PATH", "/bin")),
        working_directory="/etc",
        exposed_ports=(80, 3000),
        user="65532",
    )
    assert image.tree is not None
    assert (image.module_name, image.digest) == ("", "")
    root = await laid(library, image, tmp_path / "root")
    assert (root / "app.wasm").read_bytes() == APP
    assert sorted(path.name for path in (root / "etc").iterdir()) == ["more", "motd"]
    again, pulled = await library.ensure(name, pull_policy="Always")
    assert (again, pulled) == (image, False)
    (stored,) = await library.images()
    assert stored.size_bytes == sum(map(len, built.blobs.values())) + len(built.manifest) + len(APP) + 6
    await library.remove(name)
    assert trees_of(settings) == []
    assert (root / "app.wasm").read_bytes() == APP


@pytest.mark.parametrize(
    "options",
    [
        ["--format", "v2s2"],
        ["--format", "oci", "--dest-compress-format", "zstd"],
        ["--format", "oci", "--dest-decompress"],
    ],
    ids=["docker", "zstd", "gzip"],
)
async def test_what_another_tool_makes_of_an_image_is_the_same(
    library: Library, plain_registry: RunningRegistry, settings: Settings, tmp_path: Path, options: list[str]
) -> None:
    """skopeo writes docker's manifests and zstd layers; the digests of the archives in them stay."""
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed")
    layer = archive([member("app.wasm", APP), link("bin/tool", "/app.wasm"), member("big", bytes(range(256)) * 4000)])
    compression = "" if "zstd" in options else "+gzip"  # skopeo compresses what is plain
    built = build(layer, files({"etc/motd": b"hello"}), compression=compression, Entrypoint=["/app.wasm"], Env=["A=1"])
    source = tmp_path / "layout"
    name = put(source, "localhost/test/app:1", built)
    target = f"{plain_registry.address}/test/{'-'.join(options).strip('-')}:1"
    copied = await asyncio.create_subprocess_exec(
        "skopeo", "--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false", *options,
        f"oci:{source}:{name}", f"docker://{target}", stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, complaint = await copied.communicate()
    assert copied.returncode == 0, complaint.decode()
    image, _ = await library.ensure(target, pull_policy="Always")
    assert (image.config.entrypoint, image.config.environment) == (("/app.wasm",), (("A", "1"),))
    assert image.tree is not None
    if "zstd" in options:
        assert Path(image.tree.layers[0].path).read_bytes().startswith(b"\x28\xb5\x2f\xfd")
    assert image.tree.chain == chain_id([digest_of(layer), digest_of(files({"etc/motd": b"hello"}))])
    root = await laid(library, image, tmp_path / "root")
    assert (root / "bin/tool").resolve() == root / "app.wasm"
    assert (root / "etc/motd").read_bytes() == b"hello"


async def test_a_module_beside_files_is_the_program(library: Library, settings: Settings, tmp_path: Path) -> None:
    """Runwasi: a Wasm layer in an image that has a root file system too."""
    for number, diff_ids in enumerate((None, [digest_of(files({"data": b"x"})), digest_of(APP)])):
        built = build(
            files({"data": b"x"}),
            extra_layers=[("application/wasm", APP)],
            Entrypoint=["/app.wasm#run"],
            diff_ids=diff_ids,
        )
        name = put(settings.directory, f"localhost/test/mixed:{number}", built)
        image, _ = await library.ensure(name, pull_policy="Never")
        assert image.digest == digest_of(APP)
        assert image.module.read_bytes() == APP
        assert image.config.entrypoint == ("/app.wasm#run",)
        root = await laid(library, image, tmp_path / str(number))
        assert (root / "data").read_bytes() == b"x"


async def test_an_image_of_one_module_says_how_to_start_it(library: Library, settings: Settings) -> None:
    built = build(extra_layers=[("application/wasm", APP)], Entrypoint=["/app.wasm", "-v"], Env=["A=1"])
    image, _ = await library.ensure(put(settings.directory, "localhost/test/one:1", built), pull_policy="Never")
    assert (image.config.entrypoint, image.config.environment) == (("/app.wasm", "-v"), (("A", "1"),))
    assert image.tree is None


@pytest.mark.parametrize(
    ("platform", "execution", "annotations"),
    [
        (("linux", "amd64"), {"Entrypoint": ["/app.wasm"]}, {}),
        (("linux", "arm64"), {"Cmd": ["app.wasm"]}, {}),
        (("linux", "amd64"), {"Entrypoint": ["/app.wasm#main"]}, {}),
        (("linux", "wasm"), {"Entrypoint": ["/app"]}, {}),
        (("wasip1", "wasm32"), {}, {}),
        (("linux", "amd64"), {"Entrypoint": ["/app"]}, {"module.wasm.image/variant": "compat-smart"}),
        (("linux", "amd64"), {"Entrypoint": ["/app"]}, {"run.oci.handler": "wasm"}),
    ],
)
async def test_what_makes_an_image_of_files_wasm(
    library: Library,
    settings: Settings,
    platform: tuple[str, str],
    execution: dict[str, Any],
    annotations: dict[str, str],
) -> None:
    built = build(files({"app.wasm": APP}), platform=platform, annotations=annotations, **execution)
    image, _ = await library.ensure(put(settings.directory, "localhost/test/a:1", built), pull_policy="Never")
    assert image.tree is not None


@pytest.mark.parametrize(
    "execution", [{}, {"Entrypoint": ["/bin/sh"]}, {"Entrypoint": ["wasmtime", "/app.wasm"]}, {"Cmd": ["sh", "a.wasm"]}]
)
async def test_a_linux_image_is_refused_before_its_layers_are_fetched(
    library: Library, fake: FakeRegistry, execution: dict[str, Any]
) -> None:
    built = build(files({"bin/sh": b"\x7fELF"}), platform=("linux", "amd64"), **execution)
    with pytest.raises(UserError, match=r"cannot run here: it is a Linux container image \(linux/amd64\)") as caught:
        await library.ensure(add(fake, "v1", built), pull_policy="Always")
    assert caught.value.reason == "LinuxImage"
    assert fake.count("GET", "/blobs/") == 1


@pytest.mark.parametrize(
    ("platforms", "chosen"),
    [
        ([("linux", "amd64"), ("wasi", "wasm")], 1),
        ([("linux", "wasm"), ("linux", "amd64"), ("wasip1", "wasm")], 2),
        ([("linux", "riscv64"), ("linux", {"x86_64": "amd64"}.get("x86_64", "")), ("unknown", "unknown")], 1),
    ],
)
async def test_the_entry_of_an_index(
    library: Library, fake: FakeRegistry, platforms: list[tuple[str, str]], chosen: int, tmp_path: Path
) -> None:
    entries = []
    for number, platform in enumerate(platforms):
        built = build(files({"app.wasm": APP, "which": str(number).encode()}), platform=platform, Cmd=["/app.wasm"])
        add(fake, f"entry-{number}", built)
        entries.append(
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": fake.add_manifest(f"entry-{number}", json.loads(built.manifest)),
                "size": len(built.manifest),
                "platform": {"os": platform[0], "architecture": platform[1]},
            }
        )
    fake.add_manifest("v1", {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    image, _ = await library.ensure(f"{fake.address}/test/hello:v1", pull_policy="Always")
    root = await laid(library, image, tmp_path / "root")
    assert (root / "which").read_text() == str(chosen)


async def test_many_containers_unpack_an_image_once(library: Library, settings: Settings, tmp_path: Path) -> None:
    built = build(files({f"file-{number}": bytes(2000) for number in range(200)}), Entrypoint=["/x.wasm"])
    name = put(settings.directory, "localhost/test/a:1", built)
    got = await asyncio.gather(*(library.ensure(name, pull_policy="Never") for _ in range(50)))
    assert len({image.tree.path for image, _ in got if image.tree is not None}) == 1
    await asyncio.gather(*(laid(library, image, tmp_path / str(number)) for number, (image, _) in enumerate(got[:10])))
    assert len(list((tmp_path / "9").iterdir())) == 200
    assert len(trees_of(settings)) == 1


async def test_the_event_loop_goes_on_while_an_image_is_unpacked(library: Library, settings: Settings) -> None:
    content = files({f"d{number % 50}/file-{number}": bytes(range(256)) * 20 for number in range(4000)})
    name = put(settings.directory, "localhost/test/a:1", build(content, compression=""))
    done, lags = False, []

    async def watch() -> None:
        while not done:
            before = time.perf_counter()
            await asyncio.sleep(0.002)
            lags.append(time.perf_counter() - before - 0.002)

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        await library.ensure(name, pull_policy="Never")
        done = True
    assert sorted(lags)[int(len(lags) * 0.99)] < 0.2, "the loop stood still"


async def test_a_damaged_tree_is_made_again(library: Library, settings: Settings, tmp_path: Path) -> None:
    name = put(settings.directory, "localhost/test/a:1", build(files({"a": b"right", "b": b"x"}), Cmd=["/a.wasm"]))
    image, _ = await library.ensure(name, pull_policy="Never")
    assert image.tree is not None
    image.tree.content(0).write_bytes(b"wrong")
    root = await laid(library, image, tmp_path / "one")
    assert (root / "a").read_bytes() == b"right"
    (image.tree.path / "tree.json").write_text("{")
    image, _ = await library.ensure(name, pull_policy="Never")
    assert (await laid(library, image, tmp_path / "two") / "a").read_bytes() == b"right"
    await library.remove(name)
    with pytest.raises(RetryableError):
        await laid(library, image, tmp_path / "three")


async def test_a_damaged_layer_is_downloaded_again(library: Library, fake: FakeRegistry, settings: Settings) -> None:
    layer = files({"a": b"right"})
    name = add(fake, "v1", build(layer, compression="", Cmd=["/a.wasm"]))
    await library.ensure(name, pull_policy="IfNotPresent")
    library._trees.keep_only(())
    blob = settings.directory / "blobs" / "sha256" / digest_of(layer)[7:]
    blob.write_bytes(layer.replace(b"right", b"wrong"))
    with pytest.raises(RetryableError, match="damaged"):
        await library.ensure(name, pull_policy="IfNotPresent")
    image, pulled = await library.ensure(name, pull_policy="IfNotPresent")
    assert pulled
    assert image.tree is not None
    assert image.tree.content(0).read_bytes() == b"right"


@pytest.mark.parametrize(
    ("built", "text"),
    [
        (build(archive([member("../x", b"")]), Cmd=["/a.wasm"]), "climbs out of the root directory"),
        (build(files({"a": b""}), diff_ids=[digest_of(b"")], Cmd=["/a.wasm"]), "but the image's config says"),
        (build(files({"a": b""}), diff_ids=[], Cmd=["/a.wasm"]), "config names 0 layers, its manifest 1"),
        (build(files({"a": b""}), diff_ids=["../../x"], Cmd=["/a.wasm"]), "diff_id"),
        (build(files({"a": b""}), Cmd="/a.wasm"), "the image's config is broken"),
        (build(files({"a": b""}), extra_layers=[("application/x", b"")]), "layout is not known"),
        (build(), "layout is not known"),
    ],
)
async def test_images_that_cannot_be_used_say_why(
    library: Library, fake: FakeRegistry, built: Built, text: str
) -> None:
    name = add(fake, "v1", built)
    with pytest.raises(UserError, match=text) as caught:
        await library.ensure(name, pull_policy="IfNotPresent")
    assert name in caught.value.message
    assert caught.value.reason == "ErrImagePull"


async def test_a_helper_that_is_killed_leaves_nothing_and_may_be_tried_again(
    library: Library, settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = put(settings.directory, "localhost/test/a:1", build(files({"a": b"x"}), Cmd=["/a.wasm"]))
    killed = tmp_path / "python"
    half = settings.directory / "trees" / ".new-half"
    killed.write_text(f"#!/bin/sh\nmkdir {half}\nkill -9 $$\n")
    killed.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(killed))
        with pytest.raises(RetryableError, match="ended with -9"):
            await library.ensure(name, pull_policy="Never")
    assert trees_of(settings) == []
    assert (await library.ensure(name, pull_policy="Never"))[0].tree is not None


async def test_a_full_disk_is_said_and_left_as_it_was(settings: Settings, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="3m") as disk:
        tight = dataclasses.replace(settings, directory=disk / "images")
        zeros = build(files({"a": bytes(4 << 20)}), Cmd=["/a.wasm"])
        name = put(tight.directory, "localhost/test/a:1", zeros)
        library = Library(tight)
        with pytest.raises(RetryableError, match="No space left on device") as caught:
            await library.ensure(name, pull_policy="Never")
        assert caught.value.hint is not None
        assert "free some space" in caught.value.hint
        assert trees_of(tight) == []
        put(tight.directory, name, build(files({"a": b"small"}), Cmd=["/a.wasm"]))
        assert (await library.ensure(name, pull_policy="Never"))[0].tree is not None
        await library.close()


async def test_an_unused_tree_goes_and_a_used_one_stays(library: Library, settings: Settings) -> None:
    kept = put(settings.directory, "localhost/test/kept:1", build(files({"a": b"1"}), Cmd=["/a.wasm"]))
    gone = put(settings.directory, "localhost/test/gone:1", build(files({"a": b"22"}), Cmd=["/a.wasm"]))
    same = put(settings.directory, "localhost/test/same:1", build(files({"a": b"1"}), Cmd=["/b.wasm"]))
    for name in (kept, gone, same):
        await library.ensure(name, pull_policy="Never")
    assert len(trees_of(settings)) == 2
    await library.remove(gone)
    assert len(trees_of(settings)) == 1
    await library.remove(kept)
    assert len(trees_of(settings)) == 1
    assert library.remove_unused_trees() == 0
    await library.remove(same)
    assert trees_of(settings) == []


async def test_directories_of_an_image_are_there_though_empty(
    library: Library, settings: Settings, tmp_path: Path
) -> None:
    built = build(archive([directory("var/empty"), member("a.wasm", APP)]), Cmd=["/a.wasm"])
    image, _ = await library.ensure(put(settings.directory, "localhost/test/a:1", built), pull_policy="Never")
    assert (await laid(library, image, tmp_path / "root") / "var/empty").is_dir()


def test_the_helper_needs_no_more_than_it_must() -> None:
    """What a stranger's layer can reach has few parts, and starts quickly."""
    import subprocess

    code = "import sys, wasmlet.images.unpacking; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True).stdout
    assert "aiohttp" not in loaded.split()
    assert "asyncio" not in loaded.split()
