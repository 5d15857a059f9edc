"""``fedcmi ...``, put together.

Each group of commands has its file, and what they do are functions elsewhere.

Those functions are imported when a command runs, so that ``fedcmi --help`` need not wait for torch.
"""

from importlib.metadata import version
from typing import Annotated

import typer

from server_app.commands.bench import bench, tune
from server_app.commands.deploy import deploy
from server_app.commands.deploy_device import deploy_device
from server_app.commands.deploy_server import deploy_server
from server_app.commands.keys import keys
from server_app.commands.predict import export, predict
from server_app.commands.prep import inspect, prep
from server_app.commands.prep_federation import prep_federation
from server_app.commands.prep_own import prep_own
from server_app.commands.report import report
from server_app.commands.run import run
from server_app.commands.terminal import Commands

app = typer.Typer(
    cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
prep.add_typer(prep_own)
prep.add_typer(prep_federation)
app.add_typer(prep, name="prep")
deploy.add_typer(deploy_server)
deploy.add_typer(deploy_device)
app.add_typer(deploy, name="deploy")
app.command()(run)
app.command()(bench)
app.command()(tune)
app.command()(report)
app.command()(predict)
app.command()(export)
app.command()(inspect)
app.command()(keys)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedcmi-flwr {version('fedcmi-flwr')}")
        raise typer.Exit


@app.callback()
def common(
    _: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """FedCMI: balanced multi-modal federated learning via cross-modal infiltration, on Flower."""


if __name__ == "__main__":
    app()
