"""What `fedcmi deploy status` shows.

Of the rehearsal while it is up, else of the real server and its devices.
"""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from server_app.deploy import renewal
from server_app.deploy.rehearsal import Rehearsal, real_site
from server_app.deploy.status import Status, device_statuses
from server_app.launch.flower_cli import is_healthy


def overview(directory: Path) -> tuple[list[Status], list[str]]:
    """Return how each process is, and what will soon be wrong.

    Parameters
    ----------
    directory
        What ``fedcmi deploy init`` made.

    Returns
    -------
    The processes, and a sentence for each certificate that ends soon and each device of another
    version.
    """
    rehearsal, site = Rehearsal(directory), real_site(directory)
    real = is_healthy(site.superlink, site.inner_authority)
    if rehearsal.is_up() or not real:
        found = rehearsal.status()
    else:
        answering = is_healthy(site.address, site.authority)
        found = [
            Status("superlink", online=True),
            Status("proxy", online=answering),
            *device_statuses(site, True),
        ]

    return found, [*renewal.problems(site), *other_versions(found)]


def other_versions(found: Sequence[Status]) -> list[str]:
    """Return a sentence for each device that runs another version of this project than the
    server.
    """
    here = version("fedcmi-flwr")
    differing = [status for status in found if status.version not in (None, here)]
    return [
        f"{status.name} runs version {status.version}, the server {here}: upgrade it."
        for status in differing
    ]
