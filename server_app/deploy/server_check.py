"""What a device learns when it asks its server.

Whether it answers, by which certificate, and at what time.
"""

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
from cryptography import x509

from server_app.deploy import clock
from server_app.deploy.certificates import WARNING_DAYS, days_left

TIMEOUT = 10.0
"""Seconds."""


class UnreachableError(OSError):
    """A server that cannot be used; the text says why."""


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    clock_difference: float
    """Seconds by which this machine is ahead."""
    content: bytes


def ask(
    address: str,
    path: str,
    authority: Path | None,
    now: Callable[[], float] = time.time,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    patience: float = TIMEOUT,
) -> Answer:
    """Ask a server.

    Parameters
    ----------
    address
        "host:port".
    path
        Of the URL.
    authority
        Certificates to check it by; None: no TLS.
    now
        This machine's clock, in seconds since 1970.
    body
        What to send; None: only ask.
    headers
        More of them.
    patience
        Seconds that it may take to answer.

    Returns
    -------
    What it said.

    Raises
    ------
    UnreachableError
        It cannot be reached, its certificate is not good, or it refuses.
    """
    url = f"{'http' if authority is None else 'https'}://{address}{path}"
    sent = now()
    try:
        trust = ssl.create_default_context(cafile=authority) if authority is not None else True
        with httpx.Client(verify=trust, timeout=patience, trust_env=False) as client:
            answer = client.request(
                "GET" if body is None else "POST", url, content=body, headers=headers
            )
    except (httpx.HTTPError, ssl.SSLError) as error:
        raise UnreachableError(f"{address}: {_reason(error, address)}") from error

    received = now()
    if not answer.is_success:
        said = answer.text.strip().partition("\n")[0][:500]
        raise UnreachableError(f"{address}: the server refused it ({answer.status_code}): {said}")

    return Answer(clock.difference(answer.headers["date"], sent, received), answer.content)


def introduction(address: str, now: Callable[[], float] = time.time) -> Answer:
    """Ask a server that is not known yet for its authority's certificate.

    Parameters
    ----------
    address
        "host:port".
    now
        This machine's clock, in seconds since 1970.

    Returns
    -------
    What whoever answers there says: to be believed only if its hash is the expected one.

    Raises
    ------
    UnreachableError
        Nobody answers.
    """
    nobody = ssl.create_default_context()
    nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
    sent = now()
    try:
        with httpx.Client(verify=nobody, timeout=TIMEOUT, trust_env=False) as client:
            answer = client.get(f"https://{address}/fedcmi/ca.crt").raise_for_status()
    except httpx.HTTPError as error:
        raise UnreachableError(f"{address}: {error or type(error).__name__}") from error

    return Answer(clock.difference(answer.headers["date"], sent, now()), answer.content)


def unverified_certificate(address: str) -> x509.Certificate | None:
    """Return the certificate that a server shows, whoever it is; None: it shows none."""
    host, _, port = address.rpartition(":")
    try:
        text = ssl.get_server_certificate((host, int(port)), timeout=TIMEOUT)
        return x509.load_pem_x509_certificate(text.encode())
    except (OSError, ValueError):
        return None


def certificate_problem(certificate: x509.Certificate, now: datetime | None = None) -> str | None:
    """Return what is or soon will be wrong with the dates of a certificate, in a sentence.

    None: nothing.
    """
    moment = now or datetime.now(UTC)
    left = days_left(certificate, moment)
    end = f"{certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if moment < certificate.not_valid_before_utc:
        begin = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        return f"the certificate is valid from {begin} only: this machine's clock may be behind."

    if left < 0:
        return (
            f"the certificate has expired, on {end}; `fedcmi deploy renew DIR` on the server "
            "makes a new one."
        )
    if left < WARNING_DAYS:
        return (
            f"the certificate expires in {left:.0f} days, on {end}; `fedcmi deploy renew DIR` on "
            "the server renews it."
        )

    return None


def _reason(error: Exception, address: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" not in str(error):
        return f"no answer ({str(error) or type(error).__name__})."

    shown = unverified_certificate(address)
    problem = certificate_problem(shown) if shown is not None else None

    return problem or f"its certificate is not to be trusted by ca.crt ({error})."
