"""The library: policies, shared downloads, cancellation, errors with Kubernetes' reasons, real and bad registries."""

import asyncio
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.guests import guest
from tests.support.registry import RunningRegistry
from tests.unit.images.conftest import COMPONENT
from tests.unit.images.fake_registry import MODULE, FakeRegistry, hang, on, partly, status, times
from wasmlet.base.errors import NotFoundError, RetryableError, UserError
from wasmlet.images.configuration import CONTAINER_CONFIGS, ImageConfig
from wasmlet.images.credentials import Credential
from wasmlet.images.image import Progress, PullPolicy
from wasmlet.images.layouts import WASM_CONFIG, WASM_LAYER, Interfaces, Layout
from wasmlet.images.library import Library
from wasmlet.images.manifest import OCI_INDEX, digest_of
from wasmlet.images.settings import Settings

TAR = "application/vnd.oci.image.layer.v1.tar+gzip"


def half_done(settings: Settings) -> list[Path]:
    return list((settings.directory / "ingest").iterdir())


@pytest.mark.parametrize("layout", ["cncf", "krustlet"])
async def test_push_and_pull(
    library: Library, plain_registry: RunningRegistry, module_file: Path, layout: Layout
) -> None:
    name = f"{plain_registry.address}/demo/{layout}:v1"
    digest = await library.push(module_file, name, layout=layout, annotations={"org.example": "yes"})
    assert await library.push(module_file, name, layout=layout, annotations={"org.example": "yes"}) == digest
    reports: list[Progress] = []
    image, pulled = await library.ensure(name, pull_policy="IfNotPresent", progress=reports.append)
    assert pulled
    assert image.module.read_bytes() == module_file.read_bytes()
    assert image.digest == digest_of(module_file.read_bytes())
    assert image.reference == name
    assert image.image_id == f"{plain_registry.address}/demo/{layout}@{digest}"
    assert image.module_name == "hello.wasm"
    assert image.config == ImageConfig()
    size = module_file.stat().st_size
    assert image.size_bytes == size
    assert reports[0] == Progress("resolve", name)
    assert reports[1] == Progress("download", name, 0, size)
    assert reports[-1] == Progress("download", name, size, size)
    (stored,) = await library.images()
    assert (stored.reference, stored.digest) == (name, digest)
    assert stored.size_bytes > size
    assert stored.created


async def test_push_and_pull_with_a_registry_of_another_make(
    library: Library, referrers_registry: str, module_file: Path
) -> None:
    name = f"{referrers_registry}/demo/hello:v1"
    digest = await library.push(module_file, name)
    image = await library.pull(name)
    assert image.module.read_bytes() == module_file.read_bytes()
    await library.remove(name)
    again, pulled = await library.ensure(f"{referrers_registry}/demo/hello@{digest}", pull_policy="IfNotPresent")
    assert pulled
    assert again.digest == image.digest
    with pytest.raises(NotFoundError, match="demo/hello:v2"):
        await library.pull(f"{referrers_registry}/demo/hello:v2")


async def test_a_component_is_pushed_as_wasip2(
    library: Library, plain_registry: RunningRegistry, tmp_path: Path
) -> None:
    (tmp_path / "component.wasm").write_bytes(COMPONENT)
    interfaces = Interfaces(("wasi:io/streams@0.2.0", "now"), ("wasi:cli/run@0.2.0",))
    name = f"{plain_registry.address}/demo/component"
    digest = await library.push(tmp_path / "component.wasm", name, interfaces=interfaces)
    manifest = json.loads(plain_registry.blob(digest).read_bytes())
    config = json.loads(plain_registry.blob(manifest["config"]["digest"]).read_bytes())
    assert config["os"] == "wasip2"
    assert config["layerDigests"] == [manifest["layers"][0]["digest"]]
    assert config["component"] == {
        "exports": ["wasi:cli/run@0.2.0"],
        "imports": ["wasi:io/streams@0.2.0", "now"],
        "target": None,
    }


def section_ends(module: bytes) -> set[int]:
    """Where the sections of a module of at most 127 bytes each end, as far as they are so short."""
    position, found = 8, {8}
    while position < len(module) and module[position + 1] < 0x80:
        position += 2 + module[position + 1]
        found.add(position)
    return found


async def test_what_cannot_be_pushed_is_refused(library: Library, fake: FakeRegistry, tmp_path: Path) -> None:
    (tmp_path / "a.out").write_bytes(b"\x7fELF")
    (tmp_path / "empty").touch()
    name = f"{fake.address}/x:v1"
    with pytest.raises(UserError, match=r"a\.out: it is not a WebAssembly binary but an ELF program"):
        await library.push(tmp_path / "a.out", name)
    with pytest.raises(UserError, match="but empty"):
        await library.push(tmp_path / "empty", name)
    whole = guest("hello").read_bytes()
    for cut in (*range(9, 60), len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.wasm").write_bytes(whole[:cut])
        if cut not in section_ends(whole):
            with pytest.raises(UserError, match=r"cut\.wasm: it is cut"):
                await library.push(tmp_path / "cut.wasm", name)
    with pytest.raises(NotFoundError, match="nowhere"):
        await library.push(tmp_path / "nowhere", name)
    with pytest.raises(UserError, match=r"cannot read|not a regular file"):
        await library.push(tmp_path, name)
    with pytest.raises(UserError, match="push to a tag"):
        await library.push(tmp_path / "a.out", f"{fake.address}/x@sha256:{'0' * 64}")
    assert fake.seen == []


async def test_skopeo_reads_the_store(library: Library, fake: FakeRegistry, settings: Settings, tmp_path: Path) -> None:
    """With skopeo where it is installed, and by the specification's rules everywhere."""
    image = await library.pull(fake.add_image("v1"))
    index = json.loads((settings.directory / "index.json").read_bytes())
    manifest = json.loads((settings.directory / "blobs/sha256" / index["manifests"][0]["digest"][7:]).read_bytes())
    for blob in (manifest["config"], *manifest["layers"]):
        content = (settings.directory / "blobs/sha256" / blob["digest"][7:]).read_bytes()
        assert (digest_of(content), len(content)) == (blob["digest"], blob["size"])
    if shutil.which("skopeo"):
        source = f"oci:{settings.directory}:{image.reference}"
        command = ["skopeo", "--insecure-policy", "copy", source, f"oci:{tmp_path / 'copy'}:copy"]
        process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()


async def test_if_not_present_asks_once_and_never_does_not_ask(library: Library, fake: FakeRegistry) -> None:
    name = fake.add_image("v1")
    with pytest.raises(UserError, match=f'Container image "{name}" is not present with pull policy of Never') as caught:
        await library.ensure(name, pull_policy="Never")
    assert caught.value.reason == "ErrImageNeverPull"
    assert fake.seen == []
    image, pulled = await library.ensure(name, pull_policy="IfNotPresent")
    asked = len(fake.seen)
    for policy in ("IfNotPresent", "Never"):
        assert await library.ensure(name, pull_policy=policy) == (image, False)
    assert pulled
    assert len(fake.seen) == asked


async def test_always_resolves_and_downloads_what_changed(library: Library, fake: FakeRegistry) -> None:
    name = fake.add_image("v1")
    first, pulled = await library.ensure(name, pull_policy="Always")
    assert pulled
    blobs = fake.count("GET", "/blobs/")
    assert await library.ensure(name, pull_policy="Always") == (first, False)
    assert fake.count("HEAD", "/manifests/") == 1
    assert fake.count("GET", "/blobs/") == blobs
    fake.add_image("v1", module=MODULE + b"\0\x03\x01xy")
    second, pulled = await library.ensure(name, pull_policy="Always")
    assert pulled
    assert second.digest != first.digest
    assert fake.count("GET", "/blobs/") == blobs + 1
    del fake.manifests["v1"]
    with pytest.raises(NotFoundError) as caught:
        await library.ensure(name, pull_policy="Always")
    assert caught.value.reason == "ErrImagePull"


async def test_a_digest_finds_what_a_tag_brought(library: Library, fake: FakeRegistry) -> None:
    image = await library.pull(fake.add_image("v1"))
    found, pulled = await library.ensure(image.image_id, pull_policy="Never")
    assert not pulled
    assert (found.module, found.image_id, found.reference) == (image.module, image.image_id, image.image_id)


async def test_an_index_gives_its_wasm_image_under_its_own_digest(library: Library, fake: FakeRegistry) -> None:
    fake.add_image("wasm")
    content, media_type = fake.manifests["wasm"]
    entries = [
        {"digest": "sha256:" + "0" * 64, "size": 1, "platform": {"os": "linux", "architecture": "amd64"}},
        {"digest": digest_of(content), "size": len(content), "platform": {"os": "wasip1", "architecture": "wasm"}},
    ]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{"mediaType": media_type, **x} for x in entries]}
    digest = fake.add_manifest("many", index, OCI_INDEX)
    name = f"{fake.address}/test/hello:many"
    image, _ = await library.ensure(name, pull_policy="IfNotPresent")
    assert image.image_id == f"{fake.address}/test/hello@{digest}"
    assert await library.ensure(name, pull_policy="Always") == (image, False)
    assert (await library.ensure(image.image_id, pull_policy="Never"))[0].digest == image.digest


@pytest.mark.parametrize(
    ("config_type", "config", "layer_type", "words", "reason"),
    [
        (WASM_CONFIG, b"{}", "application/vnd.example", "application/vnd.example.*wasmlet reads", "ErrImagePull"),
        (CONTAINER_CONFIGS[0], b'{"os":"linux"}', TAR, "cannot run here: it is a Linux container image", "LinuxImage"),
    ],
)
async def test_images_that_are_not_read_are_not_downloaded(
    library: Library, fake: FakeRegistry, config_type: str, config: bytes, layer_type: str, words: str, reason: str
) -> None:
    document = fake.manifest(config_type, config, (layer_type, b"layer"))
    fake.add_manifest("x", document)
    with pytest.raises(UserError, match=words) as caught:
        await library.ensure(f"{fake.address}/test/hello:x", pull_policy="Always")
    assert caught.value.reason == reason
    assert f"{fake.address}/test/hello:x" in str(caught.value)
    assert fake.count("GET", document["layers"][0]["digest"]) == 0


async def test_a_module_or_config_that_is_too_large_is_refused_before_its_download(
    settings: Settings, fake: FakeRegistry
) -> None:
    library = Library(dataclasses.replace(settings, max_module_bytes=10))
    with pytest.raises(UserError, match="more than this node takes"):
        await library.pull(fake.add_image("v1"))
    document = fake.manifest(WASM_CONFIG, b"{}", (WASM_LAYER, MODULE))
    document["config"]["size"] = 1 << 40
    fake.add_manifest("config", document)
    with pytest.raises(UserError, match="config of image"):
        await library.pull(f"{fake.address}/test/hello:config")
    await library.close()


@pytest.mark.parametrize(
    ("reference", "policy", "reason"),
    [
        ("Not A Name", "Always", "InvalidImageName"),
        ("registry.invalid/x", "IfNotPresent", "ErrImagePull"),
        ("127.0.0.1:1/x", "IfNotPresent", "ErrImagePull"),
        ("file:/nowhere.wasm", "Never", "ErrImagePull"),
    ],
)
async def test_every_failure_has_kubernetes_reason_and_names_the_image(
    library: Library, reference: str, policy: PullPolicy, reason: str
) -> None:
    async with asyncio.timeout(20):
        with pytest.raises(UserError if "/x" not in reference else RetryableError) as caught:
            await library.ensure(reference, pull_policy=policy)
    assert caught.value.reason == reason
    assert reference.removeprefix("file:") in str(caught.value)


async def test_a_wrong_digest_is_refused_and_leaves_nothing(
    library: Library, fake: FakeRegistry, settings: Settings
) -> None:
    name = fake.add_image("v1")
    fake.blobs[digest_of(MODULE)] = MODULE[:-1] + b"!"
    with pytest.raises(RetryableError, match=f"{name}.*blob {digest_of(MODULE)}.*came as sha256:"):
        await library.pull(name)
    assert half_done(settings) == []
    assert await library.images() == []
    fake.blobs[digest_of(MODULE)] = MODULE
    assert (await library.pull(name)).module.read_bytes() == MODULE


async def test_many_callers_share_one_download(library: Library, fake: FakeRegistry) -> None:
    name = fake.add_image("v1")
    images = await asyncio.gather(*(library.ensure(name, pull_policy="Always") for _ in range(20)))
    assert len(set(images)) == 1
    assert fake.count("GET", "/manifests/") == 1
    assert fake.count("GET", "/blobs/") == 2


async def test_tags_of_one_module_share_its_download(library: Library, fake: FakeRegistry) -> None:
    first, second = fake.add_image("v1"), fake.add_image("v2", krustlet=True)
    await asyncio.gather(library.pull(first), library.pull(second))
    assert fake.count("GET", digest_of(MODULE)) == 1


async def test_other_credentials_do_not_share_a_pull(library: Library, fake: FakeRegistry) -> None:
    async def guard(request: web.Request) -> web.StreamResponse | None:
        if "Authorization" in request.headers:
            return None
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'})

    fake.behaviours.append(on("/manifests/", guard))
    name = fake.add_image("v1")
    login = Credential(fake.address, "alice", "s3cret")
    good, bad = await asyncio.gather(
        library.ensure(name, pull_policy="Always", credentials=[login]),
        library.ensure(name, pull_policy="Always"),
        return_exceptions=True,
    )
    assert not isinstance(good, BaseException)
    assert isinstance(bad, UserError)


async def test_one_cancelled_caller_does_not_disturb_the_other(library: Library, fake: FakeRegistry) -> None:
    go = asyncio.Event()

    async def wait(_: web.Request) -> None:
        await go.wait()

    fake.behaviours.append(on(digest_of(MODULE), wait))
    name = fake.add_image("v1")
    async with asyncio.TaskGroup() as group:
        first = group.create_task(library.ensure(name, pull_policy="Always"))
        second = group.create_task(library.ensure(name, pull_policy="Always"))
        await fake.asked("GET", "/blobs/", number=2)
        first.cancel()
        await asyncio.wait([first])
        go.set()
    assert second.result()[1]
    assert fake.count("GET", "/blobs/") == 2


async def test_when_every_caller_is_cancelled_the_download_stops_and_leaves_nothing(
    library: Library, fake: FakeRegistry, settings: Settings
) -> None:
    fake.behaviours.append(times(1, on(digest_of(MODULE), partly(MODULE[:5], length=len(MODULE), then="hang"))))
    name = fake.add_image("v1")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(library.ensure(name, pull_policy="Always")) for _ in range(3)]
        await fake.asked("GET", "/blobs/", number=2)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    await fake.gone.wait()
    assert half_done(settings) == []
    assert "flying=0 waiters=0 ending=0" in repr(library)
    assert (await library.pull(name)).module.read_bytes() == MODULE


async def test_close_stops_downloads(settings: Settings, fake: FakeRegistry) -> None:
    library = Library(settings)
    fake.behaviours.append(on("/blobs/", hang))
    waiter = asyncio.get_running_loop().create_task(library.pull(fake.add_image("v1")))
    await fake.asked("GET", "/blobs/", number=1)
    await library.close()
    with pytest.raises(RetryableError, match="wasmlet is stopping"):
        await waiter
    assert half_done(settings) == []
    await library.close()


async def test_pulls_at_the_same_time_are_bounded(settings: Settings, fake: FakeRegistry) -> None:
    library = Library(dataclasses.replace(settings, parallel_pulls=2))
    flying = most = 0

    async def count(_: web.Request) -> None:
        nonlocal flying, most
        flying += 1
        most = max(most, flying)
        await asyncio.sleep(0.02)
        flying -= 1

    fake.behaviours.append(on("/manifests/", count))
    await asyncio.gather(*(library.pull(fake.add_image(f"v{number}")) for number in range(6)))
    assert most == 2
    await library.close()


async def test_a_hanging_registry_does_not_hold_up_the_store(settings: Settings, fake: FakeRegistry) -> None:
    library = Library(dataclasses.replace(settings, idle_timeout_seconds=0.3))
    good, bad = fake.add_image("good"), fake.add_image("bad")
    await library.pull(good)
    fake.behaviours.append(on("/manifests/bad", hang))
    task = asyncio.get_running_loop().create_task(library.pull(bad))
    await fake.asked("GET", "/manifests/bad", number=1)
    await library.ensure(good, pull_policy="IfNotPresent")
    assert not task.done()
    with pytest.raises(RetryableError, match=r"bad: 127\.0\.0\.1:\d+ made no progress for 0\.3 s"):
        await task
    await library.close()


async def test_damage_is_repaired_by_a_pull(library: Library, fake: FakeRegistry, settings: Settings) -> None:
    name = fake.add_image("v1")
    image = await library.pull(name)
    image.module.write_bytes(b"short")
    config = settings.directory / "blobs/sha256" / digest_of(b'{"architecture":"wasm","os":"wasip1"}')[7:]
    config.write_bytes(b"x" * config.stat().st_size)
    with pytest.raises(UserError):
        await library.ensure(name, pull_policy="Never")
    _, pulled = await library.ensure(name, pull_policy="IfNotPresent")
    assert pulled
    assert image.module.read_bytes() == MODULE


async def test_a_module_changed_in_its_place_is_never_used(fake: FakeRegistry, settings: Settings) -> None:
    name = fake.add_image("v1")
    library = Library(settings)
    image = await library.pull(name)
    os.utime(image.module, ns=(1, 1))
    assert (await library.ensure(name, pull_policy="Never"))[0] == image  # hashed again, and it is what it was
    await library.close()
    changed = bytes(reversed(MODULE))
    image.module.write_bytes(changed)
    library = Library(settings)
    with pytest.raises(UserError, match="is not present with pull policy of Never"):
        await library.ensure(name, pull_policy="Never")
    _, pulled = await library.ensure(name, pull_policy="IfNotPresent")
    assert pulled
    assert image.module.read_bytes() == MODULE
    image.module.write_bytes(changed)  # under the process that pulled it
    await library.pull(name)
    assert image.module.read_bytes() == MODULE
    await library.close()


async def test_a_store_that_may_not_be_made_is_said(settings: Settings, fake: FakeRegistry, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    library = Library(dataclasses.replace(settings, directory=tmp_path / "file" / "images"))
    with pytest.raises(RetryableError, match="image store"):
        await library.pull(fake.add_image("v1"))
    await library.close()


async def test_remove_and_list(library: Library, fake: FakeRegistry) -> None:
    name = fake.add_image("v1")
    image = await library.pull(name)
    await library.remove(name, in_use={image.digest})
    assert image.module.exists()
    assert await library.images() == []
    with pytest.raises(NotFoundError, match="not in the store"):
        await library.remove(name)


async def test_a_local_file_is_used_where_it_lies(library: Library, module_file: Path, settings: Settings) -> None:
    for policy in ("Always", "IfNotPresent", "Never"):
        image, pulled = await library.ensure(f"file:{module_file}", pull_policy=policy)
        assert not pulled
        assert image.module == module_file
        assert image.image_id == image.digest == digest_of(module_file.read_bytes())
        assert image.module_name == "hello.wasm"
    assert not settings.directory.exists()
    refusing = Library(dataclasses.replace(settings, allow_local_files=False))
    with pytest.raises(UserError, match="does not allow") as caught:
        await refusing.ensure(f"file:{module_file}", pull_policy="Always")
    assert caught.value.reason == "InvalidImageName"
    await refusing.close()


def test_the_network_and_yaml_are_imported_only_when_they_are_used() -> None:
    code = "import sys, wasmlet.images.library; assert not {'aiohttp', 'cryptography', 'yaml'} & set(sys.modules)"
    environment = os.environ | {"PYTHONPATH": "src"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=Path(__file__).parents[3])


async def test_a_registry_that_fails_in_passing_costs_no_pull(library: Library, fake: FakeRegistry) -> None:
    fake.behaviours.append(times(1, on("/blobs/", status(502))))
    fake.behaviours.append(times(1, on("/manifests/", partly(b"{", length=100, then="cut"))))
    assert (await library.pull(fake.add_image("v1"))).module.read_bytes() == MODULE
