"""A node as its configurations describe it: its run, itself, and its prepared directory."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from flwr.app import Context

from data_prep.builtin import locate
from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.config.node import NodeConfig, read_node_config
from fedcmi_flwr.config.sections import TrainingConfig
from fedcmi_flwr.data.prepared import DataError
from fedcmi_flwr.data.schema import DatasetSpec, read_spec
from fedcmi_flwr.run_config import RunConfig, read_run_config
from fedcmi_flwr.simulation.ownership import deal_modalities
from fedcmi_flwr.types import Modality


@dataclass(frozen=True)
class Node:
    """A node."""

    run: RunConfig
    config: NodeConfig
    """What it is told about itself."""
    directory: Path
    """Its prepared directory."""
    stored: DatasetSpec
    """What lies there."""
    modalities: tuple[Modality, ...]
    """What the node owns of the run's modalities."""

    @property
    def time_budget(self) -> float:
        """The seconds it trains in a round, 0 without an end.

        As its own configuration says, or else the run's.
        """
        own = self.config.time_budget
        return self.run.work.time_budget if own is None else own

    @property
    def personal_directory(self) -> Path:
        """Where the node keeps the model with its own heads.

        ConfigError on a device that was not told.
        """
        if self.config.personal is not None:
            return Path(self.config.personal)
        if self.config.num_partitions is None or not self.run.run_dir:
            raise ConfigError(
                "personal-models = 'keep': this device does not know where; set `personal`, the "
                "path of a directory, in its node-config."
            )

        return Path(self.run.run_dir) / "personal" / f"partition-{self.config.partition_id}"

    def own_settings(self, settings: TrainingConfig) -> TrainingConfig:
        """Return the server's settings with the node's own number of epochs."""
        epochs = self.run.work.epochs_of(self.config.partition_id, settings.local_epochs)
        return replace(settings, local_epochs=self.config.local_epochs or epochs)


class DeviceError(RuntimeError):
    """What is wrong on a device, with its name, since the server does not know yet who it is."""


@contextlib.contextmanager
def naming_device(context: Context) -> Iterator[None]:
    """Add the device's name to errors, where it has one."""
    try:
        yield
    except Exception as error:
        name = context.node_config.get("name")
        if name is None:
            raise

        raise DeviceError(f"{name}: {error}") from error


def read_node(context: Context) -> Node:
    """Check both configurations and find the node's data.

    Parameters
    ----------
    context
        Flower's, of the node.

    Returns
    -------
    The node.

    Raises
    ------
    ConfigError
        A key of the run-config or node-config that is unknown, missing or out of range.
    DataError
        No prepared directory, or the node owns none of the run's modalities.
    """
    run, config = read_run_config(context.run_config), read_node_config(context.node_config)
    torch.set_num_threads(run.machine.torch_threads)

    directory = locate(config.data or run.data.data, run.data.data_set)
    stored = read_spec(directory)
    owned = config.modalities
    if owned is None:
        partitions = config.num_partitions or 1
        dealt = deal_modalities(stored.modality_names, run.data, partitions, run.training.seed)
        owned = dealt[config.partition_id]

    wanted = run.data.modalities.split("+") if run.data.modalities else owned
    used = tuple(name for name in owned if name in wanted)
    if not used:
        raise DataError(
            f"this node owns {list(owned)}, none of the run's modalities {wanted}: it takes no "
            "part."
        )

    return Node(run, config, directory, stored, used)
