"""The deployment's certificate authority, the server's certificate, and the keys of nodes; private ones are 0600."""

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS, SERVER_DAYS = 3650, 825
"""How long certificates are valid; what they sign is void with the authority."""
LOOPBACK = ("localhost", "127.0.0.1")
"""The SuperLink's own helpers reach it there, over TLS too."""


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the deployment's own."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def make_authority(directory: Path) -> Authority:
    """Write ``ca.key`` and ``ca.crt``.

    Parameters
    ----------
    directory
        The server's.

    Returns
    -------
    The authority, to sign with.
    """
    key, name = ec.generate_private_key(ec.SECP384R1()), _name("FedCMI deployment authority")
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _builder(AUTHORITY_DAYS)
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )
    write_private(directory / "ca.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (directory / "ca.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    return Authority(key, certificate)


def make_server_certificate(directory: Path, authority: Authority, names: Sequence[str]) -> None:
    """Write ``server.key`` and ``server.crt``.

    Parameters
    ----------
    directory
        The server's.
    authority
        Signs it.
    names
        Host names and addresses under which the server is reached, besides ``LOOPBACK``.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    alternatives = [_general_name(name) for name in dict.fromkeys((*names, *LOOPBACK))]
    certificate = (
        _builder(SERVER_DAYS)
        .subject_name(_name("FedCMI SuperLink"))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False)
        .sign(authority.key, hashes.SHA384())
    )
    write_private(directory / "server.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (directory / "server.crt").write_bytes(certificate.public_bytes(Encoding.PEM))


def make_node_key(directory: Path, name: str) -> str:
    """Write ``key`` and ``key.pub`` of a node, as ``ssh-keygen -t ecdsa -b 384`` does.

    Parameters
    ----------
    directory
        The node's.
    name
        Comment of the public key.

    Returns
    -------
    The public key's line.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    write_private(directory / "key", key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    (directory / "key.pub").write_text(f"{public} {name}\n", encoding="utf-8")
    return f"{public} {name}"


def is_node_key(text: str) -> bool:
    """Return whether a text is the public key of a node, as Flower takes it."""
    try:
        key = load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        return False
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that was never readable for anybody else."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _builder(days: int) -> x509.CertificateBuilder:
    begin = datetime.now(UTC) - timedelta(days=1)  # devices' clocks may be behind
    builder = x509.CertificateBuilder().serial_number(x509.random_serial_number())
    return builder.not_valid_before(begin).not_valid_after(begin + timedelta(days=days))


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
