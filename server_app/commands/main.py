"""``fedcmi ...``, put together: each group of commands has its file, and what they do are functions elsewhere.

Those functions are imported when a command runs, so that ``fedcmi --help`` need not wait for torch.
"""

import typer

from server_app.commands.bench import bench, tune
from server_app.commands.deploy import deploy
from server_app.commands.keys import keys
from server_app.commands.predict import export, predict
from server_app.commands.prep import inspect, prep
from server_app.commands.report import report
from server_app.commands.run import run

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(prep, name="prep")
app.add_typer(deploy, name="deploy")
app.command()(run)
app.command()(bench)
app.command()(tune)
app.command()(report)
app.command()(predict)
app.command()(export)
app.command()(inspect)
app.command()(keys)

if __name__ == "__main__":
    app()
