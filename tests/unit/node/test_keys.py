"""Requests as the signers want them, read with cryptography itself."""

import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.unit.node.authority import Authority
from wasmlet.base.errors import UserError
from wasmlet.node import keys
from wasmlet.node.signing import CLIENT, SERVING

SUBJECT = keys.Subject(node="n")
SERVED = keys.Subject(node="n", dns_names=("n",), ip_addresses=("192.0.2.7", "fd00::7"))


def test_a_client_request_names_the_node_and_nothing_else() -> None:
    found = x509.load_pem_x509_csr(keys.request(keys.new_key(), SUBJECT))
    assert found.is_signature_valid
    assert isinstance(found.public_key(), ec.EllipticCurvePublicKey)
    assert [each.value for each in found.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)] == ["system:nodes"]
    assert [each.value for each in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["system:node:n"]
    assert list(found.extensions) == []


def test_a_serving_request_names_its_addresses() -> None:
    found = x509.load_pem_x509_csr(keys.request(keys.new_key(), SERVED))
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["n"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("192.0.2.7"), ipaddress.ip_address("fd00::7"),
    ]  # fmt: skip


def test_a_long_name_is_possible() -> None:
    subject = keys.Subject(node="n" * 200)
    assert keys.certificate(keys.self_signed(keys.new_key(), subject, now=0.0)).common_name == subject.common_name


def test_a_requests_name_is_the_same_for_the_same_request_only() -> None:
    key, other = keys.new_key(), keys.new_key()
    name = keys.request_name(key, SUBJECT, CLIENT.usages)
    assert name == keys.request_name(key, SUBJECT, CLIENT.usages)
    assert name.startswith("node-csr-")
    assert len(name) < 253
    assert name.islower()
    others = [(other, SUBJECT, CLIENT.usages), (key, SERVED, CLIENT.usages), (key, SUBJECT, SERVING.usages)]
    assert len({name, *(keys.request_name(*each) for each in others)}) == 4


def test_a_certificate_fits_its_own_key_only() -> None:
    key = keys.new_key()
    pem = Authority().sign(keys.request(key, SERVED))
    assert keys.fits(pem, key)
    assert not keys.fits(pem, keys.new_key())
    assert not keys.fits(b"nothing", key)
    assert not keys.fits(pem, b"nothing")
    found = keys.certificate(key + pem)
    assert (found.common_name, found.organizations) == ("system:node:n", ("system:nodes",))
    assert found.names == {"n", "192.0.2.7", "fd00::7"}
    assert not found.is_self_signed
    with pytest.raises(UserError, match="no PEM certificate"):
        keys.certificate(key)


def test_self_signed() -> None:
    key = keys.new_key()
    pem = keys.self_signed(key, SERVED, now=1_800_000_000.0)
    found = keys.certificate(pem)
    assert found.is_self_signed
    assert found.names == {"n", "192.0.2.7", "fd00::7"}
    assert found.not_before <= 1_800_000_000.0 < found.not_after
    usage = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_nothing_shows_a_key() -> None:
    assert "PRIVATE" not in repr(keys.certificate(keys.self_signed(keys.new_key(), SERVED, now=0.0)))
