"""Connections to the API server: whom they trust, who they are, and how that changes."""

import asyncio
import dataclasses
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from tests.support.fake_api import IMPATIENT, Authorities, FakeApi, status
from tests.support.waiting import eventually
from wasmlet.base.errors import RetryableError, UserError
from wasmlet.kube.client import Client
from wasmlet.kube.errors import (
    UnauthorizedError,
)
from wasmlet.kube.kubeconfig import ExecPlugin
from wasmlet.kube.resources import CONFIG_MAPS, PODS
from wasmlet.kube.types import ConfigMap, ObjectMeta


async def test_client_certificates_from_text_and_files(tmp_path: Path) -> None:
    made = Authorities.make(wants_client=True)
    made.write(tmp_path)
    async with FakeApi.running(tls=made.server) as api:
        text = made.access(api.url, certificate=made.certificate, key=made.key)
        files = made.access(
            api.url,
            authority=tmp_path / "ca.crt",
            certificate=tmp_path / "client.crt",
            key=tmp_path / "client.key",
            tls_server_name="api.test",
        )
        for access in (text, files):
            client = Client(access, settings=IMPATIENT)
            assert (await client.list(PODS)).items == ()
            await client.close()
        nobody = Client(made.access(api.url), settings=IMPATIENT)
        with pytest.raises(RetryableError):
            await nobody.list(PODS)
        await nobody.close()


async def test_a_server_that_is_not_the_right_one() -> None:
    made, other = Authorities.make(), Authorities.make()
    async with FakeApi.running(tls=made.server) as api:
        for access in (other.access(api.url), made.access(api.url, tls_server_name="else.test")):
            client = Client(access, settings=IMPATIENT)
            with pytest.raises(UserError, match=r"is not trusted.*check certificate-authority"):
                await client.list(PODS)
            await client.close()
        client = Client(other.access(api.url, is_insecure=True), settings=IMPATIENT)
        assert (await client.list(PODS)).items == ()
        await client.close()


async def test_a_new_token_is_read_when_the_old_one_is_refused(api: FakeApi, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    good = "old"

    async def check(request: web.Request) -> web.StreamResponse | None:
        return None if request.headers.get("Authorization") == f"Bearer {good}" else status(401, "Unauthorized", "")

    api.behaviours.append(check)
    client = Client(dataclasses.replace(api.access, token_file=file), settings=IMPATIENT)
    await client.list(PODS)
    good = "new"
    with pytest.raises(UnauthorizedError, match="check the credentials"):
        await client.list(PODS)
    (tmp_path / "next").write_text("new")
    (tmp_path / "next").rename(file)
    await client.create(CONFIG_MAPS, ConfigMap(metadata=ObjectMeta(name="a")), namespace="n")
    assert [each.method for each in api.seen] == ["GET", "GET", "POST", "POST"]
    await client.close()


async def test_a_plugin_gives_a_certificate(tmp_path: Path) -> None:
    made = Authorities.make(wants_client=True)
    document = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential",
        "status": {"clientCertificateData": made.certificate.decode(), "clientKeyData": made.key.decode()},
    }
    (tmp_path / "credential").write_bytes(msgspec.json.encode(document))
    plugin = ExecPlugin(
        api_version="client.authentication.k8s.io/v1", command="cat", arguments=(str(tmp_path / "credential"),)
    )
    async with FakeApi.running(tls=made.server) as api:
        client = Client(made.access(api.url, exec=plugin), settings=IMPATIENT)
        assert (await client.list(PODS)).items == ()
        await client.close()


async def test_rotation_opens_new_connections_and_closes_the_old_ones(tmp_path: Path) -> None:
    made = Authorities.make(wants_client=True)
    made.write(tmp_path)
    seen: list[tuple[object, str]] = []
    release = asyncio.Event()

    async def note(request: web.Request) -> web.StreamResponse | None:
        transport = request.transport
        assert transport is not None
        seen.append((transport, dict(sum(transport.get_extra_info("peercert")["subject"], ()))["commonName"]))
        if "slow" in request.path:
            await release.wait()
        return None

    async with FakeApi.running(tls=made.server) as api:
        api.behaviours.append(note)
        files = {"certificate": tmp_path / "client.crt", "key": tmp_path / "client.key"}
        client = Client(made.access(api.url, **files), settings=IMPATIENT)
        await client.list(PODS)
        await client.list(PODS)
        assert seen[0][0] is seen[1][0]
        slow = asyncio.gather(client.raw("GET", "/api/v1/slow"))
        await eventually(lambda: len(seen) == 3, seen)
        again = trusted_again(made)
        (tmp_path / "client.crt").write_bytes(again[0])
        (tmp_path / "client.key").write_bytes(again[1])
        await client.rotate()
        await client.list(PODS)
        assert seen[3][1] == "system:node:again"
        release.set()
        await slow
        for transport, _ in seen[:3]:
            await eventually(transport.is_closing)  # type: ignore[attr-defined]
        (tmp_path / "client.key").write_bytes(b"broken")
        with pytest.raises(UserError, match=r"client.key cannot be used"):
            await client.rotate()
        await client.list(PODS)
        await client.close()


def trusted_again(made: Authorities) -> tuple[bytes, bytes]:
    leaf = made.authority.issue_cert(common_name="system:node:again", organization_name="system:nodes")
    return b"".join(each.bytes() for each in leaf.cert_chain_pems), leaf.private_key_pem.bytes()
