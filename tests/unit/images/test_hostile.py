"""Registries and hosts that want what is not theirs, and a proxy that tunnels."""

import asyncio
import contextlib
import dataclasses
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from aiohttp import web

from tests.unit.images.fake_registry import MODULE, Behaviour, FakeRegistry, on, status
from wasmlet.base.errors import RetryableError, UserError
from wasmlet.images.credentials import Credential
from wasmlet.images.library import Library
from wasmlet.images.proxies import from_environment
from wasmlet.images.settings import Settings

PASSWORD = "s3cret"


def login(registry: FakeRegistry) -> Credential:
    return Credential(registry.address, "alice", PASSWORD)


def wants_login() -> Behaviour:
    """Basic authentication, as a registry of its own does it."""

    async def answer(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Authorization", "").startswith("Basic "):
            return None
        return web.Response(status=401, headers={"WWW-Authenticate": 'Basic realm="fake"'})

    return on("/", answer)


def sends_to(location: str, code: int) -> Behaviour:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=code, headers={"Location": location})

    return on("/blobs/", answer, "GET" if code == 307 else "POST")


@contextlib.asynccontextmanager
async def thief() -> AsyncIterator[FakeRegistry]:
    """A host that asks everybody to log in with it, in both ways."""
    async with FakeRegistry.running() as other:
        bearer = f'Bearer realm="http://{other.address}/token",service="registry"'
        other.behaviours.append(status(401, WWW_Authenticate=f'{bearer}, Basic realm="registry"'))
        yield other


async def test_a_host_that_a_registry_sends_blobs_from_gets_no_login(library: Library, fake: FakeRegistry) -> None:
    name = fake.add_image("v1")
    async with thief() as other:
        fake.behaviours += [wants_login(), sends_to(f"http://{other.address}/storage", 307)]
        with pytest.raises(UserError, match=f"{other.address}, where {fake.address} sends, wants a login for blob"):
            await library.pull(name, credentials=[login(fake)])
        assert [path for _, path, _ in other.seen] == ["/storage"]
        assert "Authorization" not in other.seen[0][2]


async def test_a_host_that_a_registry_wants_uploads_sent_to_gets_no_login(
    library: Library, fake: FakeRegistry, module_file: Path
) -> None:
    async with thief() as other:
        fake.behaviours += [wants_login(), sends_to(f"http://{other.address}/upload?state=x", 202)]
        with pytest.raises(UserError, match=f"{other.address}, where {fake.address} sends, wants a login"):
            await library.push(module_file, f"{fake.address}/test/hello:v1", credentials=[login(fake)])
        assert [(method, path.partition("&")[0]) for method, path, _ in other.seen] == [("PUT", "/upload?state=x")]
        assert "Authorization" not in other.seen[0][2]


async def test_an_upload_goes_to_another_host_when_the_registry_says_so(
    library: Library, fake: FakeRegistry, module_file: Path
) -> None:
    async with FakeRegistry.running() as other:
        other.behaviours.append(status(201))
        fake.behaviours += [
            wants_login(), sends_to(f"http://{other.address}/upload", 202), on("/manifests/", _created, "PUT"),
        ]  # fmt: skip
        await library.push(module_file, f"{fake.address}/test/hello:v1", credentials=[login(fake)])
        assert len(other.seen) == 2
        assert all("Authorization" not in headers for _, _, headers in other.seen)


async def _created(request: web.Request) -> web.StreamResponse:
    await request.read()
    return web.Response(status=201)


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    made = trustme.CA()
    made.cert_pem.write_to_path(tmp_path / "ca.pem")
    return made


def certified(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_an_upload_is_not_sent_without_tls_by_a_registry_that_has_it(
    settings: Settings, authority: trustme.CA, tmp_path: Path, module_file: Path
) -> None:
    async with FakeRegistry.running(certified(authority, "127.0.0.1")) as fake, FakeRegistry.running() as other:
        fake.behaviours.append(sends_to(f"http://{other.address}/upload", 202))
        library = Library(dataclasses.replace(settings, ca_files=(tmp_path / "ca.pem",)))
        with pytest.raises(RetryableError, match="sent without TLS"):
            await library.push(module_file, f"{fake.address}/test/hello:v1")
        assert other.seen == []
        await library.close()


class Tunnel:
    """A proxy that knows CONNECT only, wants a login, and leads every name to one address."""

    def __init__(self, destination: str) -> None:
        self.destination = destination
        self.asked: list[tuple[str, str]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        line, *fields = head.strip().splitlines()
        headers = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in fields)}
        self.asked.append((line, headers.get("proxy-authorization", "")))
        if self.asked[-1][1] != "Basic dXNlcjp3b3Jk":
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            writer.close()
            return
        host, _, port = self.destination.partition(":")
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()
    writer.close()


async def test_tls_goes_through_a_proxy_s_tunnel_which_sees_the_name_only(
    settings: Settings, authority: trustme.CA, tmp_path: Path
) -> None:
    async with FakeRegistry.running(certified(authority, "registry.example")) as fake:
        fake.add_image("v1")
        fake.behaviours.append(wants_login())
        tunnel = Tunnel(fake.address)
        server = await asyncio.start_server(tunnel.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        credentials = [Credential("registry.example", "alice", PASSWORD)]
        for login, works in (("user:word@", True), ("", False)):
            proxies = from_environment({"HTTPS_PROXY": f"http://{login}127.0.0.1:{port}"})
            library = Library(dataclasses.replace(settings, proxies=proxies, ca_files=(tmp_path / "ca.pem",)))
            if works:
                image = await library.pull("registry.example/test/hello:v1", credentials=credentials)
                assert image.module.read_bytes() == MODULE
            else:
                with pytest.raises(RetryableError, match=r"proxy on the way to registry\.example answered 407"):
                    await library.pull("registry.example/test/hello:v1", credentials=credentials)
            await library.close()
        server.close()
        await server.wait_closed()
    assert {line for line, _ in tunnel.asked} == {"CONNECT registry.example:443 HTTP/1.1"}
    assert all("Proxy-Authorization" not in headers for _, _, headers in fake.seen)


async def test_a_byte_a_second_is_left_and_other_pulls_go_on(settings: Settings, fake: FakeRegistry) -> None:
    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        while True:
            await response.write(b"x")
            await asyncio.sleep(0.05)

    settings = dataclasses.replace(settings, idle_timeout_seconds=0.5, attempts=1)
    library = Library(settings)
    slow, quick = fake.add_image("slow", module=MODULE + b"\0\x02\x01y"), fake.add_image("quick")
    dripping = fake.manifests["slow"]
    fake.behaviours.append(on(dripping[0].decode().rpartition("sha256:")[2][:64], drip))
    task = asyncio.get_running_loop().create_task(library.pull(slow))
    await fake.asked("GET", "/blobs/", number=2)
    await library.pull(quick)
    with pytest.raises(RetryableError, match=r"comes at less than 16384 bytes in 0\.5 s"):
        await task
    assert list((settings.directory / "ingest").iterdir()) == []
    await library.close()
