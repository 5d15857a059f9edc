"""Hands the app to a deployment's SuperLink, shows the rounds as they come, and says how it
ended.
"""

import contextlib
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.machine.locks import LockedError, locked
from fedcmi_flwr.run_config import read_run_config
from fedcmi_flwr.types import Scalar
from server_app.deploy import audit, server_check
from server_app.deploy.deployment import DeploymentError
from server_app.deploy.rehearsal import REHEARSAL, site_of
from server_app.deploy.site import Site
from server_app.launch.flower_cli import (
    FlowerRunError,
    connection_file,
    is_healthy,
    run_app,
    stop_run,
)
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
    DeploymentError
        Another run trains on these devices.
    FlowerRunError
        The run did not complete.
    """
    site = site_of(directory)
    check_superlink(site)
    layers = [
        read_recipe(path) for path in (site.kit / "server" / "run.toml", recipe) if path is not None
    ]
    with contextlib.ExitStack() as held:
        held.enter_context(_alone(site))
        beginning = (
            _go_on(run_dir, layers[1:], assignments)
            if resume
            else _begin(run_dir, layers, assignments)
        )
        raw = held.enter_context(beginning)
        chosen = Path(str(raw["run-dir"]))
        note_run_dir(chosen)
        show(
            "server: "
            f"{site.address}{' (rehearsal on this machine)' if site.state.name == REHEARSAL else ''}"
        )
        show(f"run directory: {chosen}")
        audit.note(site.state, "run", run_dir=str(chosen), resume=resume)
        _run(site, raw, show)

    return chosen


def resume_command(directory: Path, run_dir: Path) -> str:
    """Return the command that goes on with a run on a deployment's devices."""
    return shlex.join(
        ["fedcmi", "deploy", "run", str(directory), "--run-dir", str(run_dir), "--resume"]
    )


def _run(site: Site, raw: Mapping[str, Scalar], show: Show) -> None:
    """Hand the app over, with this run-config, and wait for its end."""
    chosen = Path(str(raw["run-dir"]))
    progress = RoundProgress(chosen, read_run_config(raw), show)
    with tempfile.TemporaryDirectory(prefix="fedcmi-flower-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        (home / "config.toml").write_text(
            connection_file(site.superlink, site.inner_authority), encoding="utf-8"
        )
        try:
            with flower_app() as project:
                run_app(project, raw, home, progress.update)
        except FlowerRunError as error:
            if is_healthy(site.superlink, site.inner_authority):
                raise
            raise FlowerRunError(
                f"the SuperLink at {site.superlink} does not answer any more: start its service, "
                "or `fedcmi deploy up`."
            ) from error
        except BaseException:
            with contextlib.suppress(FlowerRunError):  # it ended meanwhile
                stop_run(home)

            raise


@contextlib.contextmanager
def _alone(site: Site) -> Iterator[None]:
    """Hold the deployment's training lock: devices' memory is for one run at a time."""
    try:
        with locked(site.state / "run.lock", 0.0):
            yield
    except LockedError as error:
        raise DeploymentError(
            "another `fedcmi deploy run` trains on these devices; wait for its end, or stop it."
        ) from error


def check_superlink(site: Site) -> None:
    """Raise FlowerRunError, with the reason, when a SuperLink does not answer.

    Parameters
    ----------
    site
        Where it should be.

    Raises
    ------
    FlowerRunError
        It does not answer, or its certificate has expired.
    """
    try:
        server_check.ask(site.superlink, "/health", site.inner_authority)
    except server_check.UnreachableError as error:
        raise FlowerRunError(
            f"no SuperLink of this deployment on this machine: {error} Start its service, or "
            "`fedcmi deploy up`."
        ) from error


@contextlib.contextmanager
def _begin(
    run_dir: Path | None, layers: Sequence[dict[str, Scalar]], assignments: Sequence[str]
) -> Iterator[dict[str, Scalar]]:
    raw = combine(layers, {}, assignments)
    check_modalities(read_run_config(raw))
    chosen = run_dir or (Path(str(raw["run-dir"])) if raw["run-dir"] else named_run_dir(raw))
    check_new(chosen)

    with claimed(chosen):
        # Refuses one that holds a run by now
        yield raw | {"run-dir": str(RunDirectory(chosen).path)}


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
