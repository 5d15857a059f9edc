"""How a run was started, kept beside it.

Going on needs nothing but its directory, and its card has the command.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.machine.atomic_files import write_atomically
from fedcmi_flwr.machine.locks import LockedError, locked
from fedcmi_flwr.run_config import read_run_config
from fedcmi_flwr.types import Scalar
from server_app.launch.start import check_modalities, combine, named_run_dir, read_recipe, resolve
from server_app.run.directory import LAUNCH, RunDirectory, RunDirectoryError, check_new
from server_app.run.resume import (
    ROUNDS,
    RunFinishedError,
    alone_in_run,
    check_unchanged,
    check_unfinished,
    may_grow,
    prepare_resume,
    reopen,
)

CLAIM = "launch.lock"
"""In a run directory: locked while a process trains there."""
NUM_NODES = 10
ENGINE = "flower"
"""Where neither the command line nor a run that goes on says anything else."""


@dataclass(frozen=True)
class Launch:
    """A simulation that is about to start."""

    raw: Mapping[str, Scalar]
    """The run-config, with run-dir."""
    num_nodes: int
    """Simulated nodes."""
    engine: str
    """Where they run; the weights do not depend on it."""

    @property
    def run_dir(self) -> Path:
        """Where results go."""
        return Path(str(self.raw["run-dir"]))


@contextlib.contextmanager
def claimed(run_dir: Path) -> Iterator[None]:
    """Keep other launches out of a run directory, from before anything is written there until this
    one is over.

    Parameters
    ----------
    run_dir
        Made when missing.

    Yields
    ------
    Nothing.

    Raises
    ------
    RunDirectoryError
        Another process has started a run there, or goes on with it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        with locked(run_dir / CLAIM, patience=0.0):
            yield
    except LockedError as error:
        raise RunDirectoryError(
            f"{run_dir}: another process is training there; wait for its end, or give another run "
            "directory."
        ) from error


@contextlib.contextmanager
def begin(
    recipe: Path | None,
    options: Mapping[str, Scalar | None],
    assignments: Sequence[str],
    run_dir: Path | None,
    num_nodes: int | None,
    engine: str | None,
) -> Iterator[Launch]:
    """Put a new run together and note it in its directory, which is this process's until the block
    ends.

    Parameters
    ----------
    recipe
        As for :func:`server_app.launch.start.resolve`.
    options
        As for :func:`server_app.launch.start.resolve`.
    assignments
        As for :func:`server_app.launch.start.resolve`.
    run_dir
        None: the run-config's, or else a new one.
    num_nodes
        None: ``NUM_NODES``.
    engine
        None: ``ENGINE``.

    Yields
    ------
    What to start; nodes remember below the run directory where there are checkpoints.
    """
    raw = resolve(recipe, options, assignments)
    check_modalities(read_run_config(raw))
    chosen = run_dir or (Path(str(raw["run-dir"])) if raw["run-dir"] else named_run_dir(raw))
    check_new(chosen)
    with claimed(chosen):
        directory = RunDirectory(chosen)  # refuses one that holds a run by now
        memory = "run-dir" if raw["checkpoint-every"] else "context"
        raw |= {"run-dir": str(directory.path), "node-memory": memory}
        launch = Launch(raw, num_nodes or NUM_NODES, engine or ENGINE)
        note(launch)
        yield launch


def note(launch: Launch) -> None:
    """Write launch.json into a run's directory, which is there."""
    write_atomically(launch.run_dir / LAUNCH, json.dumps(asdict(launch), indent=1) + "\n")


@contextlib.contextmanager
def go_on(
    run_dir: Path,
    recipe: Path | None,
    options: Mapping[str, Scalar | None],
    assignments: Sequence[str],
    num_nodes: int | None,
    engine: str | None,
) -> Iterator[Launch]:
    """Put a run together that goes on, and its directory, which is this process's, back to the
    newest checkpoint.

    Parameters
    ----------
    run_dir
        Directory of an unfinished run.
    recipe
        As for :func:`begin`; like all that follows it may only repeat what the run has.
    options
        As for :func:`begin`.
    assignments
        As for :func:`begin`.
    num_nodes
        None: as many as the run has.
    engine
        None: the engine that the run was started with. A different one continues the same run.

    Yields
    ------
    What to start.

    Raises
    ------
    ConfigError
        A key or the number of nodes differs, a finished run is to have no more rounds, or it was
        not started by ``fedcmi run``.
    """
    run_dir = run_dir.absolute()
    finished = _finished(run_dir)
    asked = (
        recipe or assignments or num_nodes or any(value is not None for value in options.values())
    )
    if finished and not asked:
        raise finished

    stored = _read(run_dir)
    layers = [stored.raw, *([read_recipe(recipe)] if recipe else [])]
    raw = combine(layers, options, assignments)
    if finished and not may_grow(stored.raw[ROUNDS], raw):
        raise ConfigError(
            f"{finished} More rounds can follow (--rounds above {stored.raw[ROUNDS]}) unless the "
            "learning rate decays; whatever else is asked for would have no effect: start a new "
            "run."
        ) from finished

    check_unchanged(run_dir, stored.raw, raw)
    if num_nodes not in (None, stored.num_nodes):
        raise ConfigError(
            f"num-nodes = {num_nodes}: the run in {run_dir} has {stored.num_nodes}; leave it out."
        )

    raw |= {"run-dir": str(run_dir), "resume": True}
    with claimed(run_dir):
        with alone_in_run(run_dir):
            if finished:
                reopen(run_dir)

            prepare_resume(run_dir, raw)

        note(Launch({**raw, "resume": False}, stored.num_nodes, stored.engine))
        yield Launch(raw, stored.num_nodes, engine or stored.engine)


def _finished(run_dir: Path) -> RunFinishedError | None:
    try:
        check_unfinished(run_dir)
    except RunFinishedError as error:
        return error

    return None


def _read(run_dir: Path) -> Launch:
    path = run_dir / LAUNCH
    try:
        return Launch(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: not there, so this run was not started by `fedcmi run`; go on as it was "
            "started, with resume = true in its run-config."
        ) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not a launch record of this project ({error}).") from error
