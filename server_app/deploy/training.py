"""Hands the app to a deployment's SuperLink, shows the rounds as they come, and says how it ended."""

import contextlib
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.run_config import read_run_config
from fedcmi_flwr.types import Scalar
from server_app.deploy.rehearsal import Rehearsal
from server_app.launch.flower_cli import FlowerRunError, connection_file, is_healthy, run_app, stop_run
from server_app.launch.progress import RoundProgress, Show
from server_app.launch.record import claimed
from server_app.launch.start import check_modalities, combine, named_run_dir, read_recipe
from server_app.pyproject import flower_app
from server_app.run.checkpoint import newest_checkpoint
from server_app.run.directory import RunDirectory, check_new
from server_app.run.resume import alone_in_run, check_unchanged, check_unfinished, prepare_resume


def train(
    directory: Path,
    recipe: Path | None,
    assignments: Sequence[str],
    run_dir: Path | None,
    resume: bool,
    show: Show,
    note_run_dir: Callable[[Path], None] = lambda path: None,
) -> Path:
    """Train on a deployment's devices: those of the rehearsal where it is up, else the real ones.

    Parameters
    ----------
    directory
        What ``fedcmi deploy init`` made, on the machine of the SuperLink.
    recipe
        TOML file over ``server/run.toml``.
    assignments
        "key=value" over both.
    run_dir
        Where to write, or what to go on with; None: a new directory.
    resume
        Go on from the newest checkpoint in ``run_dir``.
    show
        Called with where it trains, then with one line a round.
    note_run_dir
        Called with the run directory as soon as that is known.

    Returns
    -------
    The run directory.

    Raises
    ------
    ConfigError
        A key is wrong, or differs from what the run has.
    FlowerRunError
        The run did not complete.
    """
    rehearsal = Rehearsal(directory)
    rehearsed = rehearsal.is_up()
    address = rehearsal.address if rehearsed else rehearsal.deployment.address
    if not is_healthy(address, rehearsal.authority):
        raise FlowerRunError(
            f"no SuperLink of this deployment answers at {address}; start its service, or `fedcmi deploy up`."
        )
    layers = [read_recipe(path) for path in (rehearsal.kit / "server" / "run.toml", recipe) if path is not None]
    with _go_on(run_dir, layers[1:], assignments) if resume else _begin(run_dir, layers, assignments) as raw:
        note_run_dir(Path(str(raw["run-dir"])))
        return _train(rehearsal, address, raw, show)


def resume_command(directory: Path, run_dir: Path) -> str:
    """Return what goes on with a run on a deployment's devices."""
    return shlex.join(["fedcmi", "deploy", "run", str(directory), "--run-dir", str(run_dir), "--resume"])


def _train(rehearsal: Rehearsal, address: str, raw: Mapping[str, Scalar], show: Show) -> Path:
    """Hand the app over, with this run-config, and wait for its end."""
    chosen, rehearsed = Path(str(raw["run-dir"])), rehearsal.is_up()
    show(f"SuperLink: {address}{' (rehearsal on this machine)' if rehearsed else ''}")
    show(f"run directory: {chosen}")
    progress = RoundProgress(chosen, read_run_config(raw), show)
    with tempfile.TemporaryDirectory(prefix="fedcmi-flower-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        (home / "config.toml").write_text(connection_file(address, rehearsal.authority), encoding="utf-8")
        try:
            with flower_app() as project:
                run_app(project, raw, home, progress.update)
        except FlowerRunError as error:
            if is_healthy(address, rehearsal.authority):
                raise
            raise FlowerRunError(
                f"the SuperLink at {address} does not answer any more. When it is back, go on with "
                f"`{resume_command(rehearsal.kit, chosen)}`."
            ) from error
        except BaseException:
            with contextlib.suppress(FlowerRunError):  # it ended meanwhile
                stop_run(home)
            raise
    return chosen


@contextlib.contextmanager
def _begin(
    run_dir: Path | None, layers: Sequence[dict[str, Scalar]], assignments: Sequence[str]
) -> Iterator[dict[str, Scalar]]:
    raw = combine(layers, {}, assignments)
    check_modalities(read_run_config(raw))
    chosen = run_dir or (Path(str(raw["run-dir"])) if raw["run-dir"] else named_run_dir(raw))
    check_new(chosen)
    with claimed(chosen):
        yield raw | {"run-dir": str(RunDirectory(chosen).path)}  # refuses one that holds a run by now


@contextlib.contextmanager
def _go_on(
    run_dir: Path | None, layers: Sequence[dict[str, Scalar]], assignments: Sequence[str]
) -> Iterator[dict[str, Scalar]]:
    if run_dir is None:
        raise ConfigError("--resume: say which run goes on, with --run-dir.")
    run_dir = run_dir.absolute()
    check_unfinished(run_dir)
    stored = dict(newest_checkpoint(run_dir).run_config)
    raw = combine([stored, *layers], {}, assignments)
    check_unchanged(run_dir, stored, raw)
    raw |= {"run-dir": str(run_dir), "resume": True}
    with claimed(run_dir):
        with alone_in_run(run_dir):
            prepare_resume(run_dir, raw)
        yield raw
