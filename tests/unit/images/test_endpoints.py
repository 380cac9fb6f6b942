"""Mirrors, client certificates, proxies and resumed blobs, against registries that listen."""

import asyncio
import contextlib
import dataclasses
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from tests.unit.images.fake_registry import MODULE, FakeRegistry, on, partly, status, times
from wasmlet.base.errors import RetryableError, UserError
from wasmlet.images.credentials import Credential
from wasmlet.images.library import Library
from wasmlet.images.manifest import digest_of
from wasmlet.images.proxies import from_environment
from wasmlet.images.settings import Settings

NOBODY = "127.0.0.1:1"


@contextlib.asynccontextmanager
async def library_with(settings: Settings, registry: str, hosts: str) -> AsyncIterator[Library]:
    """A library whose settings tell `hosts` of the registry."""
    directory = settings.directory.parent / "hosts"
    (directory / registry).mkdir(parents=True, exist_ok=True)
    (directory / registry / "hosts.toml").write_text(hosts)
    library = Library(dataclasses.replace(settings, hosts_directory=directory))
    try:
        yield library
    finally:
        await library.close()


async def test_a_mirror_is_asked_first_with_its_own_headers_only(settings: Settings, fake: FakeRegistry) -> None:
    fake.add_image("v1")
    login = Credential("registry.example", "alice", "s3cret")
    mirror = f"http://{fake.address}"
    hosts = f'[host."{mirror}"]\n[host."{mirror}".header]\nx-mine = "yes"'
    async with library_with(settings, "registry.example", hosts) as library:
        image = await library.pull("registry.example/test/hello:v1", credentials=[login])
    assert image.image_id.startswith("registry.example/test/hello@sha256:")
    assert image.module.read_bytes() == MODULE
    assert all(path.endswith("?ns=registry.example") for _, path, _ in fake.seen)
    assert all(headers["x-mine"] == "yes" and "Authorization" not in headers for _, _, headers in fake.seen)


async def test_what_a_mirror_does_not_have_comes_from_the_registry(settings: Settings, fake: FakeRegistry) -> None:
    name = fake.add_image("v1")
    async with FakeRegistry.running() as mirror:
        hosts = f'[host."http://{mirror.address}"]'
        async with library_with(settings, fake.address, hosts) as library:
            assert (await library.pull(name)).module.read_bytes() == MODULE
        assert mirror.count("GET", "/manifests/v1") == 1
    assert fake.count("GET", "/blobs/") == 2


async def test_a_mirror_that_is_not_well_rests(settings: Settings, fake: FakeRegistry) -> None:
    name = fake.add_image("v1")
    async with FakeRegistry.running() as mirror:
        mirror.behaviours.append(status(503))
        async with library_with(settings, fake.address, f'[host."http://{mirror.address}"]') as library:
            await library.pull(name)
        assert len(mirror.seen) == 1


async def test_a_mirror_that_may_not_resolve_is_asked_for_contents(settings: Settings, fake: FakeRegistry) -> None:
    name = fake.add_image("v1")
    async with FakeRegistry.running() as mirror:
        mirror.add_image("v1")
        hosts = f'[host."http://{mirror.address}"]\ncapabilities = ["pull"]'
        async with library_with(settings, fake.address, hosts) as library:
            await library.pull(name)
        assert mirror.count("GET", "/manifests/") == 0
        assert mirror.count("GET", "/blobs/") == 2
    assert fake.count("GET", "/blobs/") == 0


async def test_a_broken_hosts_file_stops_its_registry(settings: Settings, fake: FakeRegistry) -> None:
    async with library_with(settings, fake.address, "mirrors = 1") as library:
        with pytest.raises(UserError, match=r"hosts\.toml: unknown key 'mirrors'"):
            await library.pull(fake.add_image())
    assert fake.seen == []


async def test_a_client_certificate_is_shown_to_the_registry(settings: Settings, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("node.example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "me.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    async with FakeRegistry.running(context) as guarded:
        name = guarded.add_image()
        async with library_with(settings, guarded.address, f'ca = "{tmp_path}/ca.pem"') as library:
            with pytest.raises(RetryableError):
                await library.pull(name)
        hosts = f'ca = "{tmp_path}/ca.pem"\nclient = "{tmp_path}/me.pem"'
        async with library_with(settings, guarded.address, hosts) as library:
            assert (await library.pull(name)).module.read_bytes() == MODULE
        hosts = f'ca = "{tmp_path}/ca.pem"\nclient = "{tmp_path}/none.pem"'
        async with library_with(settings, guarded.address, hosts) as library:
            with pytest.raises(UserError, match=r"client certificate .*none\.pem"):
                await library.pull(name)


async def test_a_proxy_is_asked_with_its_login(settings: Settings, fake: FakeRegistry) -> None:
    """A plain proxy is sent whole URLs, so a registry can stand for it."""
    fake.add_image("v1")
    proxies = from_environment({"HTTP_PROXY": f"http://user:word@{fake.address}"})
    library = Library(dataclasses.replace(settings, proxies=proxies, hosts_directory=settings.directory.parent / "h"))
    (settings.directory.parent / "h" / "registry.example").mkdir(parents=True)
    (settings.directory.parent / "h" / "registry.example" / "hosts.toml").write_text(
        'server = "http://registry.example"'
    )
    await library.pull("registry.example/test/hello:v1")
    await library.close()
    _, _, headers = fake.seen[-1]
    assert headers["Host"] == "registry.example"
    assert headers["Proxy-Authorization"] == "Basic dXNlcjp3b3Jk"


async def test_a_proxy_that_is_not_there_is_said(settings: Settings) -> None:
    library = Library(dataclasses.replace(settings, proxies=from_environment({"HTTPS_PROXY": f"http://u:p@{NOBODY}"})))
    with pytest.raises(RetryableError, match=r"proxy on the way to registry\.example cannot be reached.*HTTPS_PROXY"):
        await library.pull("registry.example/x:v1")
    await library.close()


def ranges(content: bytes, *, cut: int) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Serves parts as asked for, each cut after `cut` bytes."""

    async def answer(request: web.Request) -> web.StreamResponse:
        begin = int(request.headers.get("Range", "bytes=0-")[6:-1])
        headers = {"Content-Length": str(len(content) - begin)}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        response = web.StreamResponse(status=206 if begin else 200, headers=headers)
        await response.prepare(request)
        await response.write(content[begin : begin + cut])
        if begin + cut < len(content):
            await asyncio.sleep(0.05)
            assert request.transport is not None
            request.transport.close()
        return response

    return answer


async def test_a_cut_blob_goes_on_where_it_was(library: Library, fake: FakeRegistry) -> None:
    module = MODULE + b"\0\xff\xff\x07" + bytes(200_000)
    name = fake.add_image(module=module)
    fake.behaviours.append(on(digest_of(module), ranges(module, cut=40_000)))
    assert (await library.pull(name)).module.read_bytes() == module
    parts = [headers.get("Range") for _, path, headers in fake.seen if digest_of(module) in path]
    assert len(parts) == 6  # more than the tries of one request: each brought something
    assert parts[0] is None
    assert parts[1] is not None


async def test_a_registry_without_ranges_begins_again(library: Library, fake: FakeRegistry) -> None:
    name = fake.add_image()
    fake.behaviours.append(times(1, on("/blobs/", partly(MODULE[:5], length=len(MODULE), then="cut"))))
    assert (await library.pull(name)).module.read_bytes() == MODULE


async def test_a_wrong_part_is_not_taken(library: Library, fake: FakeRegistry) -> None:
    async def wrong(request: web.Request) -> web.StreamResponse | None:
        if "Range" not in request.headers:
            return None
        return web.Response(status=206, body=b"?", headers={"Content-Range": f"bytes 1-1/{len(MODULE)}"})

    name = fake.add_image()
    fake.behaviours.append(on(digest_of(MODULE), wrong))
    fake.behaviours.append(on(digest_of(MODULE), ranges(MODULE, cut=5)))
    with pytest.raises(RetryableError, match="another part than was asked for"):
        await library.pull(name)
