"""A node's samples as a method looks at them before and after training, whoever reads them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedcmi_flwr.client.calls import Call, CalledBatch
from fedcmi_flwr.client.labels import as_labels
from fedcmi_flwr.client.wrapped import WrappedModel
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.types import Batch, Modality


class SamplesNeededError(ValueError):
    """A method looks at the node's samples, which nobody handed over."""


@dataclass(frozen=True)
class Tally:
    """How many samples of each class a node has."""

    classes: Int[Tensor, " classes"]
    """Of all its samples."""
    classes_of: Mapping[Modality, Int[Tensor, " classes"]] = field(default_factory=dict)
    """Of those that have a modality, for each modality that some of them lack."""


@dataclass(frozen=True)
class NodeSamples:
    """What a method may ask of a node's training samples."""

    batches: Callable[[], Iterator[Batch]]
    """Each sample once."""
    tally: Callable[[], Tally]
    """Numbers by class."""
    same: frozenset[Modality] = frozenset()
    """Modalities whose samples look the same in every epoch, so that features can be kept by
    place."""


def log_prior(counts: Int[Tensor, " classes"]) -> Float[Tensor, " classes"]:
    """Return ln of each class's share, [classes]; half a sample is added to each class."""
    smooth = counts + 0.5
    return (smooth / smooth.sum()).log()


class LoaderSamples:
    """A user's data loader as :class:`NodeSamples` has it.

    Parameters
    ----------
    model
        As methods see it.
    source
        (inputs, labels) or (inputs, labels, present) of batches, as often as it is iterated
        over, or a function that returns such a thing. ``inputs`` is what the module is called
        with; a tuple is more than one argument. None: nobody handed samples over.
    method_name
        For errors.
    """

    def __init__(
        self,
        model: MultimodalModel,
        source: Iterable[Any] | Callable[[], Iterable[Any]] | None,
        method_name: str,
    ) -> None:
        self._model = model
        self._source = source
        self._method_name = method_name
        self._classes: list[Tensor] = []
        self._present: list[Tensor] = []
        self._counted = False

    def batches(self) -> Iterator[Batch]:
        """Yield the samples as batches on the model's device; the first pass counts them too."""
        if self._source is None:
            raise SamplesNeededError(
                f"method {self._method_name!r} looks at the node's samples before or after it "
                "trains: hand them over, LocalObjective.from_message(message, model, "
                "samples=loader)."
            )

        found = self._source() if callable(self._source) else self._source
        device = next(self._model.parameters()).device
        for batch in (as_batch(self._model, *self._checked(item)) for item in found):
            if not self._counted:
                self._classes.append(batch.labels.cpu())
                self._present.append(batch.present.cpu())

            yield batch.to(device)

        self._counted = True

    def count(self) -> Tally:
        """Return the numbers by class.

        The samples are read for it where no method has looked at them yet.
        """
        if not self._counted:
            self._classes, self._present = [], []
            deque(self.batches(), maxlen=0)

        labels, present = self._all()
        classes = self._model.spec.num_classes
        lacking = {}
        for name in self._model.owned:
            rows = present[:, self._model.spec.modalities.index(name)]
            if not bool(rows.all()):
                lacking[name] = torch.bincount(labels[rows], minlength=classes)

        return Tally(torch.bincount(labels, minlength=classes), lacking)

    def unknown(self) -> Tally:
        """Return the same count for every class, for methods that do not need real ones."""
        return Tally(torch.zeros(self._model.spec.num_classes, dtype=torch.long))

    @property
    def num_examples(self) -> int | None:
        """How many samples there are; None while nobody has looked."""
        return sum(len(labels) for labels in self._classes) if self._counted else None

    @property
    def modality_examples(self) -> dict[Modality, int] | None:
        """How many of them have each owned modality; None while nobody has looked."""
        if not self._counted:
            return None

        _, present = self._all()
        order = self._model.spec.modalities

        return {name: int(present[:, order.index(name)].sum()) for name in self._model.owned}

    def _all(self) -> tuple[Tensor, Tensor]:
        if not self._classes:
            raise SamplesNeededError(
                "samples: the loader gave no batch; a node without samples takes no part."
            )
        return torch.cat(self._classes), torch.cat(self._present)

    def _checked(self, item: Any) -> tuple[Any, Tensor, Tensor | None]:  # noqa: ANN401
        """Return (inputs, labels, present) of what a loader gave."""
        if (
            not isinstance(item, list | tuple)
            or not 2 <= len(item) <= 3
            or not isinstance(item[1], Tensor)
        ):
            raise SamplesNeededError(
                f"samples: a batch is {type(item).__name__}, need (inputs, labels) or (inputs, "
                "labels, present); where batches are mappings: samples=lambda: ((batch['x'], "
                "batch['y']) for batch in loader)."
            )
        return item[0], item[1], item[2] if len(item) == 3 else None


def as_batch(model: MultimodalModel, inputs: Any, labels: Tensor, present: Tensor | None) -> Batch:  # noqa: ANN401
    """Return what a model is called with, and the labels, as a method sees them.

    Parameters
    ----------
    model
        As methods see it.
    inputs
        What the user's module was or is to be called with: a :class:`Call`, or the arguments
        themselves.
    labels
        [batch].
    present
        [batch, modalities] over all modalities of the federation; None: all that the node owns.

    Returns
    -------
    The batch.
    """
    call = (
        inputs
        if isinstance(inputs, Call)
        else Call(inputs if isinstance(inputs, tuple) else (inputs,))
    )
    if call.args and isinstance(call.args[0], Batch):
        return call.args[0]

    labels = as_labels(labels, model.spec.num_classes)
    if isinstance(model, WrappedModel):
        given = (
            present
            if present is not None
            else call.kwargs.get("present", call.args[1] if call.args[1:] else None)
        )
        return model.as_batch(call.args[0], given, labels)

    order = model.spec.modalities
    if present is None:
        present = torch.tensor(
            [name in model.owned for name in order], device=labels.device
        ).expand(len(labels), -1)

    columns = [present[:, order.index(name)] for name in model.owned]
    complete = bool(torch.stack(columns).all())

    return CalledBatch(
        dict.fromkeys(model.owned, call), labels, present, complete, torch.arange(len(labels))
    )
