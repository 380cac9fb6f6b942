"""Other people's programs: a second registry (go-containerregistry), and skopeo on the store and on registries."""

import asyncio
import dataclasses
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.registry import PASSWORD, USERNAME, RunningRegistry
from tests.unit.images.test_store import add_image
from wasmlet.base.errors import NotFoundError
from wasmlet.images.credentials import Credential
from wasmlet.images.library import Library
from wasmlet.images.manifest import digest_of
from wasmlet.images.settings import Settings
from wasmlet.images.store import Store


async def skopeo(*arguments: str, ca_file: Path | None = None) -> str:
    """What skopeo writes; its failure fails the test."""
    program = shutil.which("skopeo")
    if program is None:
        pytest.fail("skopeo is missing; install it: apt-get install -y skopeo")
    environment = os.environ | ({} if ca_file is None else {"SSL_CERT_FILE": str(ca_file)})
    process = await asyncio.create_subprocess_exec(
        program, "--insecure-policy", *arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.fixture
async def elsewhere(settings: Settings, other_registry: RunningRegistry) -> AsyncIterator[Library]:
    """A library that trusts the second registry."""
    assert other_registry.ca_file is not None
    library = Library(dataclasses.replace(settings, ca_files=(other_registry.ca_file,)))
    yield library
    await library.close()


async def test_the_second_registry_gives_back_what_was_pushed(
    elsewhere: Library, other_registry: RunningRegistry, module_file: Path, tmp_path: Path
) -> None:
    name = f"{other_registry.address}/peers/hello:v1"
    digest = await elsewhere.push(module_file, name)
    assert await elsewhere.push(module_file, name) == digest
    image = await elsewhere.pull(name)
    assert image.module.read_bytes() == module_file.read_bytes()
    assert image.image_id.endswith(digest)
    assert (await elsewhere.ensure(f"{other_registry.address}/peers/hello@{digest}", pull_policy="Always"))[1] is False
    with pytest.raises(NotFoundError):
        await elsewhere.pull(f"{other_registry.address}/peers/hello:v2")
    told = await skopeo("inspect", "--raw", f"docker://{name}", ca_file=other_registry.ca_file)
    assert digest_of(told.encode()) == digest


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
async def test_skopeo_moves_images_between_registries_and_the_store(
    elsewhere: Library, settings: Settings, other_registry: RunningRegistry, tmp_path: Path, compression: str
) -> None:
    store = Store(tmp_path / "theirs")
    local = f"example.test/local-{compression}:v1"
    add_image(store, local, b"\0asm\x01\0\0\0" + compression.encode())
    name = f"{other_registry.address}/skopeo/{compression}:v1"
    trusting = other_registry.ca_file
    await skopeo("copy", "--dest-compress-format", compression, f"oci:{store.directory}:{local}", f"docker://{name}",
                 ca_file=trusting)  # fmt: skip
    image = await elsewhere.pull(name)
    assert image.module.read_bytes() == b"\0asm\x01\0\0\0" + compression.encode()
    called = f"example.test/written-by-skopeo-{compression}:v1"
    await skopeo("copy", f"docker://{name}", f"oci:{settings.directory}:{called}", ca_file=trusting)
    again, pulled = await elsewhere.ensure(called, pull_policy="Never")
    assert (again.digest, pulled) == (image.digest, False)
    assert {each.reference for each in await elsewhere.images()} == {name, called}


async def test_skopeo_copies_from_one_registry_to_the_other(
    settings: Settings, guarded_registry: RunningRegistry, other_registry: RunningRegistry, module_file: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    assert guarded_registry.ca_file is not None
    assert other_registry.ca_file is not None
    both = tmp_path / "both.pem"
    both.write_text(guarded_registry.ca_file.read_text() + other_registry.ca_file.read_text())
    login = Credential(guarded_registry.address, USERNAME, PASSWORD)
    library = Library(dataclasses.replace(settings, ca_files=(both,)))
    source = f"{guarded_registry.address}/from/hello:v1"
    destination = f"{other_registry.address}/to/hello:v1"
    digest = await library.push(module_file, source, credentials=[login])
    await skopeo("copy", "--src-creds", f"{USERNAME}:{PASSWORD}", f"docker://{source}", f"docker://{destination}",
                 ca_file=both)  # fmt: skip
    assert (await library.pull(destination)).image_id.endswith(digest)
    await library.close()


@pytest.mark.parametrize(
    ("config", "layer"),
    [
        ("application/vnd.wasm.config.v0+json", "application/wasm"),
        ("application/vnd.oci.image.config.v1+json", "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm"),
        ("application/vnd.wasm.config.v1+json", "application/vnd.wasm.content.layer.v1+wasm"),
    ],
)
async def test_what_oras_pushes_is_read(
    library: Library, plain_registry: RunningRegistry, module_file: Path, tmp_path: Path, config: str, layer: str
) -> None:
    from oras.client import OrasClient  # type: ignore[import-untyped,import-not-found,unused-ignore]

    (tmp_path / "config.json").write_text('{"architecture":"wasm","os":"wasip1"}')
    name = f"{plain_registry.address}/oras/{layer.rpartition('.')[2].replace('/', '-').replace('+', '-')}:v1"

    def push() -> None:
        OrasClient(insecure=True).push(
            name, files=[f"{module_file}:{layer}"], manifest_config=f"{tmp_path}/config.json:{config}",
            disable_path_validation=True,
        )  # fmt: skip

    await asyncio.to_thread(push)
    image = await library.pull(name)
    assert image.module.read_bytes() == module_file.read_bytes()
    assert image.module_name == module_file.name
