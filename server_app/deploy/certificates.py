"""The deployment's certificate authority, the server's certificate, and the keys of nodes.

Private ones are 0600.
"""

import hashlib
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
    load_pem_private_key,
    load_ssh_public_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS, SERVER_DAYS = 3650, 825
"""How long certificates are valid; what they sign is void with the authority."""
INNER_DAYS = 36500
"""The same between the server's own processes, on loopback, where nothing is renewed."""
WARNING_DAYS = 30
"""So long before its end a certificate is reported."""
LOOPBACK = ("localhost", "127.0.0.1")
"""The server's own processes reach each other there."""


class CertificateError(ValueError):
    """A key or certificate that is not what it should be.

    The text names the file and what to do.
    """


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the deployment's own."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def key_text(self) -> bytes:
        """Return the private key, as PEM."""
        return _private_text(self.key)

    @property
    def text(self) -> bytes:
        """Return the certificate, as PEM."""
        return self.certificate.public_bytes(Encoding.PEM)


def new_authority(now: datetime | None = None, days: int = AUTHORITY_DAYS) -> Authority:
    """Make an authority.

    Parameters
    ----------
    now
        When; None: now.
    days
        How long it is valid.

    Returns
    -------
    The authority, to sign with.
    """
    key, name = ec.generate_private_key(ec.SECP384R1()), _name("FedCMI deployment authority")
    usage = _key_usage(key_cert_sign=True, crl_sign=True)
    certificate = (
        _builder(days, now)
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA384())
    )

    return Authority(key, certificate)


def read_authority(key_file: Path, bundle: Path) -> Authority:
    """Return the authority that a private key is of.

    Parameters
    ----------
    key_file
        Its private key.
    bundle
        Certificates of authorities, this one's among them.

    Returns
    -------
    The authority, to sign with.

    Raises
    ------
    CertificateError
        The key is none, or of another authority.
    """
    try:
        key = load_pem_private_key(key_file.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CertificateError(
            f"{key_file}: not the private key of an authority ({error})."
        ) from error

    for certificate in read_certificates(bundle):
        if (
            isinstance(key, ec.EllipticCurvePrivateKey)
            and certificate.public_key() == key.public_key()
        ):
            return Authority(key, certificate)

    raise CertificateError(
        f"{key_file}: the key of no authority in {bundle}; give the one that belongs to it."
    )


def server_certificate(
    authority: Authority, names: Sequence[str], days: int = SERVER_DAYS, now: datetime | None = None
) -> bytes:
    """Make a key and a certificate for a server.

    Parameters
    ----------
    authority
        Signs it.
    names
        Host names and addresses under which the server is reached.
    days
        How long it is valid.
    now
        When; None: now.

    Returns
    -------
    Private key and certificate in one text, PEM: one file, which is replaced whole.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    alternatives = [_general_name(name) for name in dict.fromkeys(names)]
    certificate = (
        _builder(days, now)
        .subject_name(_name("FedCMI SuperLink"))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()),
            critical=False,
        )
        .sign(authority.key, hashes.SHA384())
    )

    return _private_text(key) + certificate.public_bytes(Encoding.PEM)


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Return the certificates in a PEM file.

    Parameters
    ----------
    path
        The file; it may hold a private key too.

    Returns
    -------
    One or more.

    Raises
    ------
    CertificateError
        It holds none.
    """
    return parse_certificates(path.read_bytes(), str(path))


def parse_certificates(content: bytes, source: str) -> list[x509.Certificate]:
    """Return the certificates in PEM text; an error names its source."""
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise CertificateError(f"{source}: no certificate in it ({error}).") from error


def days_left(certificate: x509.Certificate, now: datetime | None = None) -> float:
    """Return for how many days a certificate is still valid; below 0: it has expired."""
    return (certificate.not_valid_after_utc - (now or datetime.now(UTC))) / timedelta(days=1)


def fingerprint(content: bytes) -> str:
    """Return the SHA-256 of a file of certificates, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


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
    write_private(
        directory / "key", key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    )
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


def replace_private(path: Path, content: bytes) -> None:
    """Write a file that was never readable for anybody else, in the place of another one."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)  # of a writer that was killed
    write_private(partial, content)
    partial.replace(path)


def _private_text(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _builder(days: int, now: datetime | None) -> x509.CertificateBuilder:
    begin = (now or datetime.now(UTC)) - timedelta(days=1)  # devices' clocks may be behind
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
