"""The trackers that are built in, each for a package of its own.

TensorBoard, MLflow, Weights & Biases.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedcmi_flwr.config.sections import split_trackers
from fedcmi_flwr.lookup import Kind, find
from fedcmi_flwr.machine.extras import needs
from server_app.run.tracking import Tracker, Trackers

PROJECT = "fedcmi"
"""Experiment of MLflow, project of Weights & Biases, where their own variables name no other."""


class TensorBoard:
    """Event files below ``RUN/tensorboard``.

    ``tensorboard --logdir RUN`` shows them while the run goes on.
    """

    def begin(self, run_dir: Path, settings: Mapping[str, Any]) -> None:
        """Open a new file; TensorBoard shows all of a directory as one run."""
        with needs("tracking"):
            from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"), flush_secs=10)
        rows = [f"| {key} | {value} |" for key, value in settings.items()]
        self._writer.add_text("settings", "\n".join(["| key | value |", "|---|---|", *rows]))

    def log(self, figures: Mapping[str, float], server_round: int) -> None:
        """Write scalars."""
        for tag, value in figures.items():
            self._writer.add_scalar(tag, value, server_round)

        self._writer.flush()

    def finish(self, plots: Sequence[Path], model: Path | None) -> None:
        """Write the plots as pictures; models have no place in event files."""
        for path in plots:
            from matplotlib.image import imread

            self._writer.add_image(path.stem, np.asarray(imread(path))[..., :3], dataformats="HWC")

        self._writer.close()


class MLflow:
    """A run of MLflow: at $MLFLOW_TRACKING_URI, or in ``RUN/mlflow.db`` with files beside it."""

    def begin(self, run_dir: Path, settings: Mapping[str, Any]) -> None:
        """Start a run, or go on with the one that has this directory as its tag."""
        with needs("mlflow"):
            from mlflow.tracking import MlflowClient

        chosen = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(chosen or f"sqlite:///{run_dir.absolute() / 'mlflow.db'}")
        name, tag = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT), identity(run_dir)

        known = self._client.get_experiment_by_name(name)
        files = None if chosen else (run_dir.absolute() / "mlartifacts").as_uri()
        experiment = (
            known.experiment_id
            if known
            else self._client.create_experiment(name, artifact_location=files)
        )
        found = self._client.search_runs([experiment], f"tags.fedcmi = '{tag}'")
        if found:
            self._run = found[0].info.run_id
            return

        self._run = self._client.create_run(
            experiment, tags={"fedcmi": tag}, run_name=run_dir.name
        ).info.run_id
        for key, value in settings.items():
            self._client.log_param(self._run, key, value)

    def log(self, figures: Mapping[str, float], server_round: int) -> None:
        """Log metrics; MLflow allows no brackets and the like in their names."""
        for tag, value in figures.items():
            name = "".join(char if char.isalnum() or char in "_-. /" else "_" for char in tag)
            self._client.log_metric(self._run, name, value, step=server_round)

    def finish(self, plots: Sequence[Path], model: Path | None) -> None:
        """Keep plots and model as artifacts."""
        for path in [*plots, *([model] if model else [])]:
            self._client.log_artifact(self._run, str(path))

        self._client.set_terminated(self._run, "FINISHED" if model else "FAILED")


class WeightsAndBiases:
    """A run of Weights & Biases.

    Without $WANDB_MODE it stays below ``RUN/wandb`` until ``wandb sync``.
    """

    def begin(self, run_dir: Path, settings: Mapping[str, Any]) -> None:
        """Start a run, or go on with the one of this directory."""
        with needs("wandb"):
            import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run_dir.name,
            id=identity(run_dir),
            resume="allow",
            dir=str(run_dir),
            config=dict(settings),
            mode=os.environ.get("WANDB_MODE", "offline"),
        )

    def log(self, figures: Mapping[str, float], server_round: int) -> None:
        """Log a step."""
        self._run.log(dict(figures), step=server_round)

    def finish(self, plots: Sequence[Path], model: Path | None) -> None:
        """Log the plots as pictures and the model as an artifact."""
        if plots:
            self._run.log({path.stem: self._wandb.Image(str(path)) for path in plots})

        if model is not None:
            artifact = self._wandb.Artifact(f"model-{self._run.id}", type="model")
            artifact.add_file(str(model))
            self._run.log_artifact(artifact)

        self._run.finish(exit_code=0 if model else 1)


def identity(run_dir: Path) -> str:
    """Return an id of the run that stays the same when it goes on."""
    return hashlib.sha256(os.fsencode(run_dir.absolute())).hexdigest()[:16]


def _accept(found: Any) -> type[Tracker]:  # noqa: ANN401
    """Return a class of trackers."""
    if not isinstance(found, type) or not all(
        hasattr(found, name) for name in ("begin", "log", "finish")
    ):
        raise TypeError("a tracker is a class with the methods of server_app.run.tracking.Tracker.")
    return found


BUILT_IN: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}
TRACKER = Kind("track", "fedcmi.trackers", BUILT_IN, _accept)


def trackers_of(track: str, run_dir: Path) -> Trackers:
    """Return the trackers of a run.

    Parameters
    ----------
    track
        The key: names joined by "+", or empty.
    run_dir
        The run's directory.

    Returns
    -------
    The trackers, which have not begun.

    Raises
    ------
    UnknownNameError
        There is no such tracker here.
    """
    return Trackers({name: find(TRACKER, name)() for name in split_trackers(track)}, run_dir)
