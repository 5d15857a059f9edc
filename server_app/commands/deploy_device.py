"""``fedcmi deploy ...`` on a device: join, check, fetch, serve."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from server_app.commands.terminal import console, end_with_what_was_started, fail

deploy_device = typer.Typer()

HOME = Path("/etc/fedcmi")
AddressOption = Annotated[
    str | None, typer.Option(help="Of the server; default: as the device was told.")
]
HomeArgument = Annotated[Path, typer.Argument(metavar="[HOME]", help="The device's directory.")]


@deploy_device.command()
def join(
    token: Annotated[
        str,
        typer.Argument(
            help="What `fedcmi deploy token` printed on the server; `-`: it is read from the "
            "terminal."
        ),
    ],
    home: Annotated[Path, typer.Option(help="Where the device's key and files go.")] = HOME,
) -> None:
    """Make this device's key, here, and have the server know it."""
    from server_app.deploy import join as joining

    try:
        written = joining.join(sys.stdin.readline() if token == "-" else token, home)
    except (OSError, ValueError) as error:
        raise fail(error) from error

    console.print(f"joined: {', '.join(path.name for path in written)} in {home}")


@deploy_device.command()
def check(
    home: HomeArgument = HOME,
    address: AddressOption = None,
) -> None:
    """Look at this device's clock, server, certificate, key, data, disk and versions."""
    from server_app.deploy.device_check import check_device

    try:
        found = check_device(home, address)
    except (OSError, ValueError) as error:
        raise fail(error) from error

    for finding in found:
        console.print(f"{'ok ' if finding.good else 'BAD'} {finding.what}: {finding.text}")

    if not all(finding.good for finding in found):
        raise typer.Exit(1)


@deploy_device.command()
def fetch(
    home: HomeArgument = HOME,
    address: AddressOption = None,
) -> None:
    """Fetch the version of this project that the server offers; nothing is installed."""
    from server_app.deploy import upgrade

    try:
        wheel = upgrade.fetch(home, address)
    except (OSError, ValueError) as error:
        raise fail(error) from error

    typer.echo(wheel)


@deploy_device.command()
def node(
    home: HomeArgument = HOME,
    address: AddressOption = None,
    port: Annotated[
        int | None, typer.Option(help="On loopback, for the SuperNode's helpers.")
    ] = None,
) -> None:
    """Serve as a node: the SuperNode, and what watches it; a service of the kit."""
    from server_app.deploy.node_service import NodeService

    end_with_what_was_started(lambda: "the SuperNode is stopped too.")
    try:
        status = NodeService(home, address, port, console.print).run()
    except (OSError, ValueError) as error:
        raise fail(error) from error

    raise typer.Exit(status)
