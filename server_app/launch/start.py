"""From the command line's options to a finished run, on Flower or in this process."""

import importlib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from flwr.clientapp import ClientApp

from data_prep.builtin import is_preparation, locate
from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.config.texts import read_value
from fedcmi_flwr.data.schema import read_spec
from fedcmi_flwr.data.views import check_views, views_from
from fedcmi_flwr.inference.predictor import find_model
from fedcmi_flwr.models.adapters import adapters_of, read_adapters
from fedcmi_flwr.models.building import (
    absolute_encoders,
    check_stored,
    chosen_modalities,
    encoder_names,
    split_names,
)
from fedcmi_flwr.models.encoders.auto import AUTO
from fedcmi_flwr.models.placement import choose_device
from fedcmi_flwr.models.pretrained import absolute_locations, read_locations
from fedcmi_flwr.models.published import locations_of
from fedcmi_flwr.run_config import RunConfig, read_run_config
from fedcmi_flwr.simulation.local_grid import LocalGrid
from fedcmi_flwr.types import Scalar
from server_app.app import run as run_server
from server_app.launch.flower_run import run_on_flower
from server_app.launch.gpu_share import gpu_share
from server_app.launch.outside import from_outside, import_roots
from server_app.launch.progress import RoundProgress, Show, StartUp
from server_app.pyproject import client_app_reference, default_run_config, flower_app
from server_app.run.directory import new_run_dir


def load_client_app() -> ClientApp:
    """Return the ClientApp that ``pyproject.toml`` names."""
    module, _, name = client_app_reference().partition(":")
    found: ClientApp = getattr(importlib.import_module(module), name)
    return found


def resolve(
    recipe: Path | None, options: Mapping[str, Scalar | None], assignments: Sequence[str]
) -> dict[str, Scalar]:
    """Put the run-config of one run together: as :func:`combine`, with one recipe or none."""
    return combine([read_recipe(recipe)] if recipe else [], options, assignments)


def combine(
    layers: Sequence[Mapping[str, Scalar]],
    options: Mapping[str, Scalar | None],
    assignments: Sequence[str],
) -> dict[str, Scalar]:
    """Put a run-config together.

    Defaults, then the layers, then options that are set, then ``key=value`` texts.

    Parameters
    ----------
    layers
        Run-config keys and values; a later layer wins.
    options
        Key -> value; None: not given.
    assignments
        "key=value" with the value in TOML, or a bare word.

    Returns
    -------
    The run-config, checked.

    Raises
    ------
    ConfigError
        An unknown key, a value out of range, or an assignment without "=".
    """
    raw = default_run_config()
    for layer in layers:
        raw |= layer

    raw |= {key: value for key, value in options.items() if value is not None}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set {text!r}: must be key=value.")

        raw[key.strip()] = read_value(value.strip())

    _make_paths_absolute(raw)
    from_outside(read_run_config(raw))

    return raw


def _make_paths_absolute(raw: dict[str, Scalar]) -> None:
    """Let relative paths count from the working directory, which a simulation's processes do not
    share.
    """
    if not is_preparation(str(raw["data"])):
        raw["data"] = str(Path(str(raw["data"])).expanduser().absolute())

    if raw["run-dir"]:
        raw["run-dir"] = str(Path(str(raw["run-dir"])).expanduser().absolute())

    if raw["start-from"]:
        raw["start-from"] = str(Path(str(raw["start-from"])).expanduser().absolute())

    raw["pretrained"] = absolute_locations(str(raw["pretrained"]))
    raw["encoder"] = absolute_encoders(str(raw["encoder"]))


def check_modalities(config: RunConfig) -> None:
    """Check what a run-config says of modalities against the data, before anything is written.

    Parameters
    ----------
    config
        The checked run-config.

    Raises
    ------
    ConfigError
        A key names a modality that is not stored, or one that it does not fit.
    DataError
        The data are not there.
    FileNotFoundError
        The model to begin with is not there.
    """
    stored = read_spec(locate(config.data.data, config.data.data_set))
    names = stored.modality_names
    chosen = chosen_modalities(config.data.modalities, names)
    check_stored("freeze", split_names(config.model.freeze), names)
    check_stored("pretrained", read_locations(config.model.pretrained), names)
    encoders = encoder_names(config.model.encoder, chosen)
    check_stored("adapter", filter(None, read_adapters(config.model.adapter)), names)
    adapters_of(config.model.adapter, encoders, AUTO, split_names(config.model.freeze))
    locations_of(config.model, chosen)
    check_views(views_from(config.views), stored.modalities)
    if config.model.start_from:
        find_model(Path(config.model.start_from))


def read_recipe(recipe: Path) -> dict[str, Scalar]:
    """Return the run-config keys that a recipe overrides."""
    try:
        overrides: dict[str, Scalar] = tomllib.loads(recipe.read_text(encoding="utf-8"))
        return overrides
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {recipe}: {error}.") from error


def named_run_dir(raw: Mapping[str, Scalar]) -> Path:
    """Make a new directory below ``runs/`` of the working directory."""
    return new_run_dir(Path("runs").absolute(), str(raw["method"]), int(raw["seed"]))


def run_in_process(
    raw: Mapping[str, Scalar], num_nodes: int, client_app: ClientApp, show: Show, plots: bool = True
) -> Path:
    """Run a federation in this process, without Ray; the weights are those of a run on Ray.

    Parameters
    ----------
    raw
        The run-config; ``run-dir`` must be set.
    num_nodes
        Simulated nodes.
    client_app
        The ClientApp of the nodes.
    show
        Called with the device, then with one line a round.
    plots
        Whether the run draws its plots; a bench draws its own.

    Returns
    -------
    The run directory.
    """
    config = read_run_config(raw)
    check_enough_nodes(config, num_nodes)
    nodes = [{"partition-id": part, "num-partitions": num_nodes} for part in range(num_nodes)]
    show(f"nodes train one after the other on {choose_device(config.machine.device)}")
    progress = RoundProgress(Path(config.run_dir), config, show)
    directory = run_server(config, LocalGrid(client_app, nodes, raw), progress.update, plots)

    return directory.path


def run_with_flower(
    raw: Mapping[str, Scalar], num_nodes: int, show: Show, clients_at_once: int | None = None
) -> Path:
    """Run a federation with ``flwr run`` on Ray.

    Parameters
    ----------
    raw
        The run-config; ``run-dir`` must be set and absolute.
    num_nodes
        Simulated nodes.
    show
        Called with the device, then with one line a round.
    clients_at_once
        Clients that share a GPU at a time; None: as many as there are cores for.

    Returns
    -------
    The run directory.

    Raises
    ------
    FlowerRunError
        The run did not complete.
    """
    config = read_run_config(raw)
    check_enough_nodes(config, num_nodes)
    share, text = gpu_share(raw, num_nodes, load_client_app(), clients_at_once)
    show(text)
    progress = RoundProgress(Path(config.run_dir), config, show, StartUp())
    with flower_app() as project:
        run_on_flower(project, raw, num_nodes, share, progress.update, import_roots(config))

    return Path(config.run_dir)


def check_enough_nodes(config: RunConfig, num_nodes: int) -> None:
    """Raise ConfigError when a simulation would wait for more nodes than it has."""
    if num_nodes < config.sampling.min_available_nodes:
        raise ConfigError(
            f"num-nodes = {num_nodes}: fewer than min-available-nodes = "
            f"{config.sampling.min_available_nodes}; simulate more nodes or lower it."
        )
