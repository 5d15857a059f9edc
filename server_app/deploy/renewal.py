"""Certificates made anew while devices train: the server's, and the authority that signs it."""

from datetime import datetime
from pathlib import Path

from fedcmi_flwr.machine.atomic_files import write_atomically
from server_app.deploy import audit, proxy, reports
from server_app.deploy.certificates import (
    LOOPBACK,
    Authority,
    fingerprint,
    new_authority,
    read_authority,
    read_certificates,
    replace_private,
    server_certificate,
)
from server_app.deploy.deployment import DeploymentError
from server_app.deploy.server_check import certificate_problem
from server_app.deploy.site import Site

KEY, NEXT_KEY = "ca.key", "next-ca.key"
"""The authority's private key, and that of the one that follows it."""


def problems(site: Site, now: datetime | None = None) -> list[str]:
    """Return a sentence for each certificate that has expired or soon will.

    Parameters
    ----------
    site
        Where.
    now
        When; None: now.

    Returns
    -------
    Empty where all is well.
    """
    found = []
    for name in certificate_files(site):
        wrong = certificate_problem(read_certificates(site.kit / "server" / name)[0], now)
        found += [f"{name}: {wrong}"] if wrong else []

    return found


def certificate_files(site: Site) -> tuple[str, ...]:
    """Return the files of certificates below ``server``; in each the first is the one in use."""
    return (
        ("ca.crt", proxy.CERTIFICATE, f"{proxy.INNER}/server.crt") if site.deployment.secure else ()
    )


def renew(site: Site, authority_key: Path | None = None, now: datetime | None = None) -> None:
    """Give the server a new certificate of the same authority, with a new key; connections go on.

    Parameters
    ----------
    site
        Where.
    authority_key
        The authority's private key, where it is kept; None: it is still in the deployment's
        directory.
    now
        When; None: now.

    Raises
    ------
    CertificateError
        The key is none, or not that of the authority.
    OSError
        The key is not there.
    """
    server = _secure(site)
    authority = read_authority(authority_key or server / KEY, server / "ca.crt")
    _certify(site, authority, now)
    audit.note(site.state, "renew")
    proxy.reload(site.state)


def begin_rotation(site: Site, now: datetime | None = None) -> None:
    """Make the next authority, and have devices trust it beside the present one.

    Parameters
    ----------
    site
        Where.
    now
        When; None: now.

    Raises
    ------
    DeploymentError
        There is a next one already.
    """
    server = _secure(site)
    if (server / NEXT_KEY).exists():
        raise DeploymentError(
            f"{server / NEXT_KEY}: there is a next authority; `renew --switch-authority` goes on."
        )

    following = new_authority(now)
    replace_private(server / NEXT_KEY, following.key_text)
    _trust(site, (server / "ca.crt").read_bytes() + following.text)
    audit.note(site.state, "new authority")


def end_rotation(site: Site, force: bool = False, now: datetime | None = None) -> None:
    """Let the next authority sign the server's certificate, and make devices trust it alone.

    Parameters
    ----------
    site
        Where.
    force
        Also when a device has not said that it knows the next one: it will have to join again.
    now
        When; None: now.

    Raises
    ------
    DeploymentError
        There is no next one, or devices do not know it yet.
    """
    server = _secure(site)
    if not (server / NEXT_KEY).exists():
        raise DeploymentError("there is no next authority; `renew --new-authority` makes one.")

    behind = unaware(site)
    if behind and not force:
        raise DeploymentError(
            f"{', '.join(behind)}: has not said yet that it knows the next authority. Wait until "
            "it is online, or leave it behind with --force: it then has to join again (`fedcmi "
            "deploy replace`)."
        )

    following = read_authority(server / NEXT_KEY, server / "ca.crt")
    _certify(site, following, now)
    _trust(site, following.text)
    (server / NEXT_KEY).replace(server / KEY)
    audit.note(site.state, "switch authority", left_behind=behind)
    proxy.reload(site.state)


def unaware(site: Site) -> list[str]:
    """Return the registered devices that have not reported the authorities which the server has
    now.
    """
    expected = fingerprint((site.kit / "server" / "ca.crt").read_bytes())
    known = {name: report.authority for name, (_, report) in reports.read_reports(site).items()}
    joined = [node.name for node in site.deployment.active if site.key(node.name) is not None]

    return [name for name in joined if known.get(name) != expected]


def _certify(site: Site, authority: Authority, now: datetime | None) -> None:
    deployment = site.deployment
    names = (deployment.host, *deployment.names, *LOOPBACK)
    replace_private(
        site.kit / "server" / proxy.CERTIFICATE, server_certificate(authority, names, now=now)
    )


def _trust(site: Site, content: bytes) -> None:
    """Publish the authorities that devices trust.

    At once to those that join, to the others when they ask.
    """
    write_atomically(site.kit / "server" / "ca.crt", content)
    for node in site.deployment.nodes:
        write_atomically(site.kit / "nodes" / node.name / "ca.crt", content)


def _secure(site: Site) -> Path:
    if not site.deployment.secure:
        raise DeploymentError("a deployment without security has no certificates.")
    return site.kit / "server"
