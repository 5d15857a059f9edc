"""A model that begins with another one's weights.

As far as both have the same modalities and classes.

What the other model lacks, a modality's branch or a class, begins as it was initialised.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from fedcmi_flwr.models.file import CheckpointError
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Modality

BY_CLASS = ("classifier", "output", "outputs")
"""Layers whose rows are classes: the branches' heads, and the last layers of the fusion heads."""
BY_MODALITY = ("outputs", "gates", "values")
"""Lists of a fusion head with one layer for each modality."""


@torch.no_grad()
def take_over(
    model: MultimodalModel,
    classes: Sequence[str],
    other: MultimodalModel,
    other_classes: Sequence[str],
) -> list[str]:
    """Copy into a model what it has in common with another one.

    Parameters
    ----------
    model
        Changed in place; frozen trunks are not.
    classes
        Its classes, in index order.
    other
        The trained model.
    other_classes
        Its classes.

    Returns
    -------
    Names of the arrays into which at least a part was copied.

    Raises
    ------
    CheckpointError
        They have no modality in common, or a layer of both has another size.
    """
    common = [name for name in model.owned if name in other.owned]
    if not common:
        raise CheckpointError(
            f"the model has {list(other.owned)}, none of the run's modalities {list(model.owned)}."
        )
    if not set(classes) & set(other_classes):
        raise CheckpointError(
            f"the model tells {list(other_classes)} apart, none of the run's classes."
        )

    rows = [
        (place, other_classes.index(name))
        for place, name in enumerate(classes)
        if name in other_classes
    ]
    here, there = model.trained_state(), other.state_dict()
    pairs = [*_of_branches(here, common), *_of_fusion(here, model, other)]
    taken = []
    for name, source in pairs:
        if source in there:
            _copy(name, here[name], there[source], rows, _columns(name, model, other))
            taken.append(name)

    return taken


def _of_branches(
    here: Mapping[str, Tensor], common: Sequence[Modality]
) -> Iterator[tuple[str, str]]:
    """Yield the arrays of the branches of common modalities, which have the same names in both
    models.
    """
    prefixes = tuple(f"branches.{name}." for name in common)
    yield from ((name, name) for name in here if name.startswith(prefixes))


def _of_fusion(
    here: Mapping[str, Tensor], model: MultimodalModel, other: MultimodalModel
) -> Iterator[tuple[str, str]]:
    """Yield the arrays of the fusion head with their names in the other model, whose slots may have
    another order.
    """
    ours, theirs = model.spec.modalities, other.spec.modalities
    if model.spec.fusion != other.spec.fusion:
        return

    for name in (name for name in here if name.startswith("fusion.")):
        _, layer, *rest = name.split(".")
        if layer in BY_MODALITY:
            modality = ours[int(rest[0])]
            if modality in theirs:
                yield name, ".".join(["fusion", layer, str(theirs.index(modality)), *rest[1:]])
        elif ours == theirs or layer == "output":
            yield name, name


def _columns(
    name: str, model: MultimodalModel, other: MultimodalModel
) -> list[tuple[slice, slice]]:
    """Return which columns are which where a layer sees all slots side by side.

    Elsewhere all of them.
    """
    if name != "fusion.output.weight" or model.spec.fusion != "concat":
        return [(slice(None), slice(None))]

    ours, theirs = model.spec.modalities, other.spec.modalities
    common = [modality for modality in ours if modality in theirs]
    width, source = model.spec.embedding_dim, other.spec.embedding_dim

    return [
        (_block(ours.index(each), width), _block(theirs.index(each), source)) for each in common
    ]


def _block(place: int, width: int) -> slice:
    return slice(place * width, (place + 1) * width)


def _copy(
    name: str,
    target: Tensor,
    source: Tensor,
    rows: Sequence[tuple[int, int]],
    columns: Sequence[tuple[slice, slice]],
) -> None:
    """Copy an array, by class where its rows are classes."""
    by_class = any(part in BY_CLASS for part in name.split(".")) and ".encoder." not in name
    try:
        if not by_class:
            _copy_whole(target, source)
            return

        for row, other_row in rows:
            for column, other_column in columns:
                _copy_whole(
                    target[row][column] if target.ndim > 1 else target[row],
                    _part(source, other_row, other_column),
                )
    except ValueError as error:
        raise CheckpointError(
            f"{name!r} is {list(source.shape)} in the model and {list(target.shape)} in the run: "
            "the run needs the model's encoder, embedding-dim, projector and normalization."
        ) from error


def _part(array: Tensor, row: int, column: slice) -> Tensor:
    """Return a view of a part of a row."""
    return array[row][column] if array.ndim > 1 else array[row]


def _copy_whole(target: Tensor, source: Tensor) -> None:
    if target.shape != source.shape:
        raise ValueError(f"{list(target.shape)} is not {list(source.shape)}.")
    target.copy_(source)
