"""The ServerApp: build the global model, run the strategy, evaluate after every round, write the
run directory.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedcmi_flwr.machine.cache import cache_directory
from fedcmi_flwr.run_config import RunConfig, read_run_config
from fedcmi_flwr.strategy.arrivals import ArrivalGrid
from server_app.run.directory import RunDirectory, check_new, new_run_dir
from server_app.run.federation import Federation
from server_app.run.resume import alone_in_run, check_unfinished, prepare_resume
from server_app.run.trackers import trackers_of

app = ServerApp()
logger = logging.getLogger("flwr.fedcmi")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a federation from Flower's run-config."""
    config = read_run_config(context.run_config)
    run(config, ArrivalGrid(grid))


def run(
    config: RunConfig, grid: Grid, after_round: Callable[[], None] | None = None, plots: bool = True
) -> RunDirectory:
    """Run a federation on any grid.

    Parameters
    ----------
    config
        The checked configuration.
    grid
        Flower's grid, or an in-process one.
    after_round
        Called when a round's record has been written.
    plots
        Whether plots are drawn at the end.

    Returns
    -------
    The directory with everything that the run left.

    Raises
    ------
    Exception
        Whatever ended the run; its text is in ``error.txt`` too.
    """
    path = Path(config.run_dir) if config.run_dir else _default_run_dir(config)
    resumed = config.checkpoints.resume
    if resumed:
        check_unfinished(path)
    else:
        check_new(path)
        path.mkdir(parents=True, exist_ok=True)

    with alone_in_run(path):
        directory = RunDirectory(path, plots, resumed, trackers_of(config.tracking.track, path))
        logger.info("run directory: %s", directory.path)
        try:
            checkpoint = prepare_resume(directory.path, config.raw) if resumed else None
            Federation(config, directory, after_round).run(grid, checkpoint)
        except Exception as error:
            directory.write_error(error)
            raise

    return directory


def _default_run_dir(config: RunConfig) -> Path:
    return new_run_dir(cache_directory() / "runs", config.method_name, config.training.seed)
