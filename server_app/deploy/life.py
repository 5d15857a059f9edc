"""A device's life on the server: added, exchanged for another, shut out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fedcmi_flwr.machine.atomic_files import write_atomically
from server_app.deploy import audit, guide
from server_app.deploy.compose import write_compose
from server_app.deploy.deployment import Deployment, DeploymentError, Device, write_deployment
from server_app.deploy.kit import write_node
from server_app.deploy.nodes_toml import read_device
from server_app.deploy.site import Site


def add(
    site: Site, name: str, modalities: Sequence[str], data: str, device: str | None = None
) -> Device:
    """Add a device to a deployment; it still has to join.

    Parameters
    ----------
    site
        Where.
    name
        Its name; nobody has or had it.
    modalities
        What it owns.
    data
        Absolute path of its prepared directory, on the device.
    device
        "auto", "cpu" or "cuda"; None: what the run says.

    Returns
    -------
    The device, with a partition id that nobody has had.

    Raises
    ------
    DeploymentError
        The name is taken, or something cannot be used.
    """
    deployment = site.deployment
    if any(node.name == name for node in deployment.nodes):
        raise DeploymentError(
            f"{name}: there is or was a device of that name; `fedcmi deploy replace` exchanges it."
        )

    values = {"name": name, "modalities": list(modalities), "data": data} | (
        {"device": device} if device else {}
    )
    added = read_device(Path("/the command line"), len(deployment.nodes), values)
    write_node(site.kit, added, deployment)
    _store(site, replace(deployment, nodes=(*deployment.nodes, added)))
    audit.note(
        site.state, "add", node=name, modalities=list(modalities), partition_id=added.partition_id
    )

    return added


def revoke(site: Site, name: str) -> None:
    """Shut a device out, at once: what it sends is refused, and no token lets it in again.

    Parameters
    ----------
    site
        Where.
    name
        The device's.

    Raises
    ------
    DeploymentError
        There is none, or it is the last one.
    FlowerRunError
        The SuperLink does not answer: the device may still be in.
    """
    node = site.deployment.node(name)
    if site.deployment.active == (node,):
        raise DeploymentError(f"{name}: the last device; a deployment has one at least.")

    # First: from now on nobody joins by this name
    _store(site, _with(site.deployment, replace(node, revoked=True)))
    site.shut_out(node.name)
    audit.note(site.state, "revoke", node=name)


def exchange(site: Site, name: str) -> Device:
    """Shut a device's key out and make its place free for another one, which joins with a token.

    Parameters
    ----------
    site
        Where.
    name
        The device's, active or revoked.

    Returns
    -------
    The device: name, partition id and data stay as they are.
    """
    node = replace(site.deployment.node(name), revoked=False, public_key=None)
    site.shut_out(name)
    _store(site, _with(site.deployment, node))
    (site.kit / "nodes" / name / "key.pub").unlink(missing_ok=True)
    write_node(site.kit, node, site.deployment)
    audit.note(site.state, "replace", node=name)

    return node


def register_known(site: Site) -> list[str]:
    """Let in all devices whose public key the deployment's description has.

    Parameters
    ----------
    site
        Where.

    Returns
    -------
    Their names.
    """
    known = [node for node in site.deployment.active if node.public_key is not None]
    for node in known:
        site.register(node, str(node.public_key))

    return [node.name for node in known]


def _with(deployment: Deployment, changed: Device) -> Deployment:
    nodes = [changed if node.name == changed.name else node for node in deployment.nodes]
    return replace(deployment, nodes=tuple(nodes))


def _store(site: Site, deployment: Deployment) -> None:
    write_deployment(site.kit, deployment)
    write_atomically(site.kit / "README.md", guide.for_the_server(deployment, site.kit))
    write_compose(site.kit, site.kit, deployment)
