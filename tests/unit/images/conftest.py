"""Fixtures of the images room: settings with short times, a real registry, a registry that misbehaves on demand."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.cosign import Signer
from tests.support.registry import RunningRegistry, docker_registry, second_registry
from tests.unit.images.fake_registry import FakeRegistry
from tests.unit.images.trusting import Node
from wasmlet.images.library import Library
from wasmlet.images.settings import Settings

# A core module and a component without content: the preamble alone is a valid binary of both kinds.
MODULE = b"\0asm\x01\0\0\0"
COMPONENT = b"\0asm\x0d\0\x01\0"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        directory=tmp_path / "images",
        allow_local_files=True,
        connect_timeout_seconds=5,
        idle_timeout_seconds=5,
        retry_delay_seconds=0.01,
    )


@pytest.fixture
async def library(settings: Settings) -> AsyncIterator[Library]:
    library = Library(settings)
    yield library
    await library.close()


@pytest.fixture(scope="session")
def plain_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture(scope="session")
def guarded_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with docker_registry(tmp_path_factory.mktemp("registry"), tls=True, login=True) as registry:
        yield registry


@pytest.fixture(scope="session")
def referrers_registry() -> Iterator[str]:
    """The address of a registry with the referrers API."""
    with second_registry() as address:
        yield address


@pytest.fixture(scope="session")
def other_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    """A second implementation, over TLS."""
    certificates = tmp_path_factory.mktemp("registry")
    with second_registry(certificates) as address:
        yield RunningRegistry(address, certificates / "ca.pem", certificates, certificates)


@pytest.fixture
async def fake() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry.running() as registry:
        yield registry


@pytest.fixture
def module_file(tmp_path: Path) -> Path:
    """A module of more than one write: the preamble and a custom section of 3 MiB."""
    path = tmp_path / "hello.wasm"
    payload = b"\x01x" + bytes(range(256)) * (3 << 12)
    size, length = len(payload), b""
    while size:
        length += bytes([size & 127 | (128 if size >> 7 else 0)])
        size >>= 7
    path.write_bytes(MODULE + b"\0" + length + payload)
    return path


@pytest.fixture
def node(settings: Settings, tmp_path: Path) -> Node:
    return Node(settings, tmp_path)


@pytest.fixture
def signer() -> Signer:
    return Signer()
