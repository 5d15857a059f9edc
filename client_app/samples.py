"""A node's samples: its part of a split, and how a task wants them to be seen."""

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from client_app.node import Node
from fedcmi_flwr import wire
from fedcmi_flwr.config.sections import DataConfig, ViewConfig, read_section
from fedcmi_flwr.data.prepared import DataError, load_split
from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.data.views import views_from
from fedcmi_flwr.simulation.own_distribution import draw_by_own_distribution
from fedcmi_flwr.simulation.partitions import own_samples, partition
from fedcmi_flwr.types import Modality


def task_samples(node: Node, split: str, task: wire.Task) -> Samples:
    """Return the node's samples of the modalities that it was sent, as the whole federation sees
    them.

    Parameters
    ----------
    node
        The node.
    split
        "train" or "test".
    task
        What the node was sent; it describes each modality of the federation, and its views.

    Returns
    -------
    The samples, to be normalised with the federation's mean and std instead of this device's own.

    Raises
    ------
    DataError
        A modality of another kind or shape than the federation's.
    """
    owned = tuple(name for name in node.stored.modality_names if name in task.groups)
    samples = node_samples(node, split, owned)

    described = tuple(ModalitySpec.from_json(task.config[f"input.{name}"]) for name in owned)
    for here, common in zip(samples.modalities, described, strict=True):
        if (here.kind, here.shape) != (common.kind, common.shape):
            raise DataError(
                f"modality {here.name!r}: this node has {here.kind} samples of shape "
                f"{list(here.shape)}, the federation {common.kind} of {list(common.shape)}; "
                "prepare the node's data with the federation's settings."
            )

    views = views_from(read_section(ViewConfig, task.config))

    return replace(samples, modalities=described, views=views)


def check_unchanged(node: Node, task: wire.Task) -> None:
    """Raise DataError where a node has other modalities than it said.

    The server asks a node that raised again.
    """
    said = [name for name in task.modalities if name in task.groups]
    now = node_samples(node, "train", node.modalities).seen_modalities
    if set(now) != set(said):
        raise DataError(
            f"this node now has samples of {list(now)}, but said {said} when it was asked; it "
            "takes no part until it is asked again."
        )


def node_samples(node: Node, split: str, modalities: tuple[Modality, ...]) -> Samples:
    """Return the node's samples of a split.

    Its partition of the training split, its share of the test split.

    Parameters
    ----------
    node
        The node; all samples are its own where its data is not dealt to partitions.
    split
        "train" or "test".
    modalities
        What is to be read of the samples.

    Returns
    -------
    The samples.

    Raises
    ------
    DataError
        Too few samples, or files that are missing.
    """
    written = (node.directory / "dataset.json").stat().st_mtime_ns
    parts, part, seed = node.config.num_partitions, node.config.partition_id, node.run.training.seed
    if parts is not None and split == "train":
        return _partition(node.directory, modalities, written, node.run.data, parts, part, seed)

    samples = _open(node.directory, split, modalities, written)
    if parts is None:
        return own_samples(samples, node.run.data, split)

    if node.run.evaluation.node_test == "own-distribution":
        own = node_samples(node, "train", modalities)
        labels, like = samples.labels[samples.rows], own.labels[own.rows]
        return samples.select(samples.rows[draw_by_own_distribution(labels, like, seed, part)])

    return samples.select(samples.rows[part::parts])


@lru_cache(maxsize=64)
def _open(directory: Path, split: str, modalities: tuple[Modality, ...], written: int) -> Samples:
    """Open a split; cached until it is prepared again, since the nodes of a simulation's process
    share directories.
    """
    return load_split(directory, split, modalities)


@lru_cache(maxsize=1024)
def _partition(
    directory: Path,
    modalities: tuple[Modality, ...],
    written: int,
    data: DataConfig,
    parts: int,
    part: int,
    seed: int,
) -> Samples:
    """Return one partition of a training split.

    Kept, since to find it again takes as long as the split is large.
    """
    return partition(_open(directory, "train", modalities, written), data, parts, part, seed)
