"""``fedcmi deploy ...`` on the server: a device's whole life, certificates, back-up."""

from pathlib import Path
from typing import Annotated

import typer

from server_app.commands.deploy import DirectoryArgument
from server_app.commands.terminal import console, end_with_what_was_started, fail

deploy_server = typer.Typer()

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The device's.")]


@deploy_server.command()
def token(
    directory: DirectoryArgument,
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="The device's.")] = "",
    all_: Annotated[
        bool, typer.Option("--all", help="One for each device that has not joined: NAME,TOKEN.")
    ] = False,
    hours: Annotated[
        float, typer.Option(min=0.0, max=8760.0, help="How long it is good for.")
    ] = 24.0,
) -> None:
    """Make a token, by which one device joins once."""
    from server_app.deploy.rehearsal import site_of

    try:
        if all_ == bool(name):
            raise ValueError("say which device the token is for, by NAME, or --all.")

        site = site_of(directory)
        if not all_:
            typer.echo(str(site.issue_token(name, hours)))
            return

        for node in site.deployment.active:
            if node.public_key is None and site.key(node.name) is None:
                typer.echo(f"{node.name},{site.issue_token(node.name, hours)}")
    except (OSError, ValueError, RuntimeError) as error:
        raise fail(error) from error


@deploy_server.command()
def register(directory: DirectoryArgument) -> None:
    """Let in all devices whose public keys are in nodes.toml."""
    from server_app.deploy.life import register_known
    from server_app.deploy.rehearsal import site_of

    try:
        names = register_known(site_of(directory))
    except (OSError, ValueError, RuntimeError) as error:
        raise fail(error) from error

    console.print(f"{len(names)} devices registered.")


@deploy_server.command()
def add(
    directory: DirectoryArgument,
    name: NameArgument,
    modalities: Annotated[str, typer.Option(help="What it owns, like audio,visual.")],
    data: Annotated[str, typer.Option(help="Absolute path of its prepared data, on the device.")],
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
) -> None:
    """Add a device; it joins with a token."""
    from server_app.deploy import life
    from server_app.deploy.rehearsal import site_of

    try:
        added = life.add(site_of(directory), name, modalities.split(","), data, device)
    except (OSError, ValueError, RuntimeError) as error:
        raise fail(error) from error

    console.print(
        f"{name}: partition {added.partition_id}; next: `fedcmi deploy token {directory} {name}`."
    )


@deploy_server.command()
def revoke(directory: DirectoryArgument, name: NameArgument) -> None:
    """Shut a device out, at once and for ever."""
    from server_app.deploy import life
    from server_app.deploy.rehearsal import site_of

    try:
        life.revoke(site_of(directory), name)
    except (OSError, ValueError, RuntimeError) as error:
        raise fail(error) from error

    console.print(f"{name}: revoked.")


@deploy_server.command()
def replace(directory: DirectoryArgument, name: NameArgument) -> None:
    """Shut a device's key out, and let another device have its name and its place."""
    from server_app.deploy import life
    from server_app.deploy.rehearsal import site_of

    try:
        life.exchange(site_of(directory), name)
    except (OSError, ValueError, RuntimeError) as error:
        raise fail(error) from error

    console.print(f"{name}: free; next: `fedcmi deploy token {directory} {name}`.")


@deploy_server.command()
def renew(
    directory: DirectoryArgument,
    authority_key: Annotated[
        Path | None, typer.Option(help="ca.key, where it was moved to.")
    ] = None,
    new_authority: Annotated[
        bool, typer.Option("--new-authority", help="Have devices know the next one.")
    ] = False,
    switch: Annotated[
        bool, typer.Option("--switch-authority", help="Have the next one sign, from now on.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Switch though a device does not know it yet.")
    ] = False,
) -> None:
    """Renew the server's certificate, or its authority in two steps; devices train on."""
    from server_app.deploy import renewal
    from server_app.deploy.rehearsal import site_of

    try:
        site = site_of(directory)
        if new_authority and switch:
            raise ValueError(
                "--new-authority and --switch-authority: devices have to hear of it in between."
            )

        if new_authority:
            renewal.begin_rotation(site)
        elif switch:
            renewal.end_rotation(site, force)
        else:
            renewal.renew(site, authority_key)
    except (OSError, ValueError, RuntimeError) as error:
        raise fail(error) from error

    console.print("renewed.")


@deploy_server.command()
def backup(
    directory: DirectoryArgument, file: Annotated[Path, typer.Argument(help="A new .tar.gz.")]
) -> None:
    """Write all that the server needs into one file; it holds private keys."""
    from server_app.deploy.backup import back_up
    from server_app.deploy.rehearsal import real_site

    try:
        back_up(real_site(directory), file)
    except (OSError, ValueError) as error:
        raise fail(error) from error

    console.print(f"{file}: keep it where nobody else can read it.")


@deploy_server.command()
def upgrade(
    directory: DirectoryArgument,
    wheel: Annotated[
        Path | None, typer.Argument(metavar="[WHEEL]", help="Offer this one to the devices.")
    ] = None,
) -> None:
    """Show which version each device runs; offer a new one, which devices fetch."""
    from server_app.deploy import upgrade as upgrading
    from server_app.deploy.rehearsal import site_of

    try:
        site = site_of(directory)
        if wheel is not None:
            console.print(
                f"{upgrading.offer(site, wheel)} is offered; what to do on a device: "
                "nodes/NAME/README.md"
            )

        running = upgrading.versions(site)
    except (OSError, ValueError, RuntimeError) as error:
        raise fail(error) from error

    for each in running:
        flower = f", flwr {each.flower}" if each.flower else ""
        typer.echo(
            f"{each.name}: {each.version or '-'}{flower} ({each.state}, wanted: {each.wanted})"
        )


@deploy_server.command()
def registrar(
    directory: DirectoryArgument,
    rehearsal: Annotated[bool, typer.Option("--rehearsal", help="Of the rehearsal.")] = False,
) -> None:
    """Serve devices that join and report, and metrics on loopback; a service of the kit."""
    from server_app.deploy.registrar import serve
    from server_app.deploy.rehearsal import Rehearsal, real_site

    end_with_what_was_started(lambda: "devices can join again when it is back.")
    try:
        serve(Rehearsal(directory).site if rehearsal else real_site(directory))
    except (OSError, ValueError) as error:
        raise fail(error) from error
