"""Goes on with a run whose processes died.

Finds what it left, and puts its directory back to a whole round.
"""

import contextlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.machine.locks import LockedError, locked
from fedcmi_flwr.models.file import CARD, CheckpointError
from fedcmi_flwr.simulation import node_memory
from fedcmi_flwr.types import Scalar
from server_app.pyproject import default_run_config
from server_app.run.best import BestModel
from server_app.run.checkpoint import (
    CHECKPOINTS,
    Checkpoint,
    newest_checkpoint,
    round_of,
    stored_checkpoints,
)
from server_app.run.directory import LAUNCH, RunDirectory, RunDirectoryError

FREE = ("run-dir", "resume", "wait-timeout", "round-timeout", "failure-budget")
"""Keys that may differ when a run goes on: a run directory may be moved, and a network may have
become worse."""
ROUNDS = "num-server-rounds"
PATIENCE = 45.0
"""Seconds to wait for the processes of a run that was killed; they end by themselves."""
PACKAGES = ("fedcmi-flwr", "flwr", "torch", "numpy")
logger = logging.getLogger("flwr.fedcmi")


class RunFinishedError(RunDirectoryError):
    """A run with nothing left to do."""


@contextlib.contextmanager
def alone_in_run(run_dir: Path) -> Iterator[None]:
    """Lock a run directory for this process.

    The lock ends when the process ends, even if it is killed.

    Parameters
    ----------
    run_dir
        An existing directory.

    Yields
    ------
    Nothing.

    Raises
    ------
    RunDirectoryError
        Another process is at work there.
    """
    try:
        with locked(run_dir, PATIENCE):
            yield
    except LockedError as error:
        raise RunDirectoryError(
            f"{run_dir}: another process still writes this run; wait for it or stop it."
        ) from error


def prepare_resume(run_dir: Path, raw: Mapping[str, Scalar]) -> Checkpoint:
    """Choose the checkpoint that a run goes on from, and remove what the run left of later rounds.

    Parameters
    ----------
    run_dir
        The run's directory.
    raw
        The run-config that it is to go on with.

    Returns
    -------
    The checkpoint.

    Raises
    ------
    RunDirectoryError
        There is no run, it is finished, or its metrics lack a round.
    CheckpointError
        No checkpoint can be used.
    ConfigError
        A key has another value than in the run.
    """
    check_unfinished(run_dir)
    checkpoint = newest_checkpoint(run_dir)
    check_unchanged(run_dir, checkpoint.run_config, raw)
    _check_nodes(run_dir, checkpoint)
    for package, found in package_versions().items():
        if checkpoint.versions.get(package) != found:
            logger.warning(
                "%s was %s when the run began and is %s",
                package,
                checkpoint.versions.get(package),
                found,
            )

    RunDirectory(run_dir, resumed=True).rewind(checkpoint.server_round)
    for path in stored_checkpoints(run_dir / CHECKPOINTS):
        if round_of(path) > checkpoint.server_round:
            shutil.rmtree(path)

    node_memory.forget_after(run_dir / node_memory.DIRECTORY, checkpoint.server_round)

    return checkpoint


def _check_nodes(run_dir: Path, checkpoint: Checkpoint) -> None:
    """Raise ConfigError if the data would be dealt among another number of nodes than before."""
    found = RunDirectory(run_dir, resumed=True).simulated_nodes()
    if checkpoint.num_nodes is not None and found is not None and found != checkpoint.num_nodes:
        raise ConfigError(
            f"{run_dir / LAUNCH}: num_nodes = {found}, but the run was trained with "
            f"{checkpoint.num_nodes} nodes; write {checkpoint.num_nodes} there."
        )


def check_unfinished(run_dir: Path) -> None:
    """Raise RunDirectoryError unless a directory holds a run, and RunFinishedError if that is
    finished.
    """
    if not (run_dir / "metrics.jsonl").is_file():
        raise RunDirectoryError(f"{run_dir}: holds no run (no metrics.jsonl) that could go on.")
    if (run_dir / "summary.md").is_file():
        raise RunFinishedError(
            f"{run_dir}: this run is finished, see its summary.md; there is nothing to resume."
        )


def how_to_go_on(run_dir: Path, command: str) -> str:
    """Return what to do about a run that ended before its time.

    Parameters
    ----------
    run_dir
        The run's directory.
    command
        What goes on with it.

    Returns
    -------
    The end of a sentence.
    """
    if (run_dir / "summary.md").is_file():
        return f"the run in {run_dir} is finished."
    if stored_checkpoints(run_dir / CHECKPOINTS):
        return f"go on with: {command}"

    return f"{run_dir} has no checkpoint yet: start the run again, with another run directory."


def records_kept(run_dir: Path) -> int:
    """Return how many records of an unfinished run stay when it goes on.

    That of round 0 is one of them.
    """
    check_unfinished(run_dir)
    return newest_checkpoint(run_dir).server_round + 1


def check_unchanged(
    run_dir: Path, stored: Mapping[str, object], given: Mapping[str, object]
) -> None:
    """Raise ConfigError if a run would go on with another value of a key.

    The number of rounds may grow unless the learning rate decays, which ends in the last one. A
    key that came after the run had its default then.
    """
    defaults = default_run_config()
    for key in sorted({*stored, *given} - set(FREE)):
        before = stored.get(key, defaults.get(key))
        if key == ROUNDS and may_grow(before, given):
            continue
        if before != given.get(key):
            raise ConfigError(
                f"{key} = {given.get(key)!r}: the run in {run_dir} has {before!r}, and goes on "
                "with what it has. Leave it out, or start a new run."
            )


def may_grow(rounds: object, given: Mapping[str, object]) -> bool:
    """Return whether a run of so many rounds may go on to those that are asked for."""
    wanted = given.get(ROUNDS)
    if not isinstance(wanted, int) or not isinstance(rounds, int):
        return False

    return wanted > rounds and given.get("lr-decay-start") == -1


def reopen(run_dir: Path) -> None:
    """Make a finished run one that can go on, since it is to have more rounds.

    Parameters
    ----------
    run_dir
        The run's directory; what a finished run has beside an unfinished one is removed, and
        made again at the end.

    Raises
    ------
    CheckpointError
        It has kept no checkpoint.
    """
    try:
        newest_checkpoint(run_dir)
    except CheckpointError as error:
        advice = f"a new run can begin with its model: fedcmi run --from {run_dir}"
        raise CheckpointError(
            f"{run_dir}: this run is finished and kept no checkpoint; {advice}"
        ) from error

    BestModel.take_back(run_dir)
    for name in ("summary.md", "matrix.json", CARD):
        (run_dir / name).unlink(missing_ok=True)


def remove_resumables(run_dir: Path) -> None:
    """Remove what only an unfinished run needs.

    The newest checkpoint stays, from which more rounds may follow.
    """
    for path in stored_checkpoints(run_dir / CHECKPOINTS)[:-1]:
        shutil.rmtree(path)

    for path in stored_checkpoints(run_dir / CHECKPOINTS):
        node_memory.forget_before(run_dir / node_memory.DIRECTORY, round_of(path))


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that decide about a run's numbers."""
    return {name: version(name) for name in PACKAGES}
