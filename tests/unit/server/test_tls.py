"""Serving contexts: what their files have to be."""

import asyncio.sslproto
import ssl
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from tests.unit.server.kubelet_api import Papers
from wasmlet.base.errors import UserError
from wasmlet.server.tls import TlsFiles, bound_buffers, load


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path)


def test_a_context(papers: Papers) -> None:
    context = load(papers.serving()).context
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_OPTIONAL


def test_without_client_authorities_nobody_is_asked(papers: Papers) -> None:
    files = papers.serving()
    context = load(TlsFiles(certificate=files.certificate, key=files.key)).context
    assert context.verify_mode is ssl.CERT_NONE


def test_the_digest_tells_other_authorities(papers: Papers) -> None:
    first, second = load(papers.serving()), load(papers.serving())
    assert first.client_ca == second.client_ca
    assert load(papers.serving(client_authority=trustme.CA())).client_ca != first.client_ca


@pytest.mark.parametrize("broken", ["certificate", "key", "client_ca"])
@pytest.mark.parametrize(
    "content", [None, b"", b"rubbish", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_broken_files(papers: Papers, tmp_path: Path, broken: str, content: bytes | None) -> None:
    files = papers.serving()
    path = tmp_path / "broken.pem"
    if content is not None:
        path.write_bytes(content)
    paths = {"certificate": files.certificate, "key": files.key, "client_ca": files.client_ca} | {broken: path}
    with pytest.raises(UserError, match="cannot use the serving certificate") as caught:
        load(TlsFiles(**paths))  # type: ignore[arg-type]
    assert str(path) in caught.value.message


def test_key_and_certificate_of_different_people(papers: Papers) -> None:
    one, other = papers.serving(), papers.serving()
    with pytest.raises(UserError):
        load(TlsFiles(certificate=one.certificate, key=other.key))


def test_an_encrypted_key_is_refused_and_not_asked_about(papers: Papers, tmp_path: Path) -> None:
    files = papers.serving()
    key = serialization.load_pem_private_key(files.key.read_bytes(), password=None)
    encrypted = tmp_path / "encrypted.pem"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    with pytest.raises(UserError):
        load(TlsFiles(certificate=files.certificate, key=encrypted))


def test_buffers_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio.sslproto.SSLProtocol, "max_size", 256 * 1024)
    bound_buffers()
    assert asyncio.sslproto.SSLProtocol.max_size == 16 * 1024
