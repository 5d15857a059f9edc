"""A user's torch module behind the interface that methods expect of a model.

Its groups, its outputs and, where it has them, its parts.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fedcmi_flwr.client.calls import Call
from fedcmi_flwr.client.outputs import as_model_output
from fedcmi_flwr.methods.losses import true_class_probability
from fedcmi_flwr.models.fusion import ConcatFusion
from fedcmi_flwr.models.multimodal import ModelSpec, MultimodalModel
from fedcmi_flwr.types import Batch, ClassStats, Modality, ModelOutput


class AdaptedModel(MultimodalModel):
    """Any module behind the interface of the two-projector model.

    What a method needs and the module lacks is asked of the module by name:
    ``fuse(self_embeddings, infiltration_embeddings, present)`` gives the fused logits of what is
    present, ``fusion`` is the fusion head.

    Parameters
    ----------
    module
        The user's, with the received arrays loaded.
    groups
        Group -> names of the module's state_dict that the node was sent.
    spec
        Modalities, classes and structure of the federation's model.
    """

    def __init__(
        self, module: nn.Module, groups: Mapping[str, Sequence[str]], spec: ModelSpec
    ) -> None:
        nn.Module.__init__(self)
        self.module = module
        fusion = getattr(module, "fusion", None)
        self.fusion = fusion if isinstance(fusion, nn.Module) else nn.Identity()
        self.groups = {group: tuple(names) for group, names in groups.items()}
        self.spec = spec

    @property
    def owned(self) -> tuple[Modality, ...]:
        """Modalities whose group the node was sent."""
        return tuple(name for name in self.spec.modalities if name in self.groups)

    @property
    def _sent(self) -> set[str]:
        return {name for names in self.groups.values() for name in names}

    def branch(self, modality: Modality) -> Any:  # noqa: ANN401
        """Return the parameters of a modality's group, as those of an encoder."""
        own = dict(self.module.named_parameters())
        parameters = [own[name] for name in self.groups[modality] if name in own]
        return SimpleNamespace(encoder=SimpleNamespace(parameters=lambda: parameters))

    def teacher(self, modality: Modality) -> Any:  # noqa: ANN401
        """Return a frozen copy of the module that gives the self logits of one modality."""
        return _Teacher(copy.deepcopy(self.module).eval().requires_grad_(False), modality)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that were sent and are not frozen, by the module's names."""
        own = self.module.named_parameters()
        return {name: value for name, value in own if value.requires_grad and name in self._sent}

    def trained_state(self) -> dict[str, Tensor]:
        """Return what was sent, as it is now."""
        return {
            name: value for name, value in self.module.state_dict().items() if name in self._sent
        }

    def load_trained_state(self, state: Mapping[str, Tensor]) -> None:
        """Load what :meth:`trained_state` returned."""
        self.module.load_state_dict(dict(state), strict=False)

    def trained_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the trained parameters by group, without names."""
        trained = self.trained_parameters()
        return {
            group: [trained[name] for name in names if name in trained]
            for group, names in self.groups.items()
        }

    def slots(
        self, u: Mapping[Modality, Tensor], q: Mapping[Modality, Tensor], present: Tensor
    ) -> Tensor:
        """Return the embeddings of what is present in a row, zeros or q in the other slots."""
        for name in self.owned:
            _ = u[name]  # an error that says what the module must return

        return super().slots(u, q, present)

    def forward(self, batch: Batch) -> ModelOutput:
        """Call the module as the user called it for this batch."""
        call: Any = batch.inputs[self.owned[0]]
        return as_model_output(call.of(self.module))

    def fuse(
        self, u: Mapping[Modality, Tensor], q: Mapping[Modality, Tensor], present: Tensor
    ) -> Tensor:
        """Ask the module for its fused logits when only the ``present`` modalities are
        looked at.
        """
        fuse = getattr(self.module, "fuse", None)
        if fuse is None:
            raise NotImplementedError(
                "the method hides modalities from the fusion head, which "
                f"{type(self.module).__name__} cannot: give it a method fuse(self_embeddings, "
                "infiltration_embeddings, present) that returns [batch, classes], or build the "
                "model with fedcmi_flwr.client.wrap."
            )

        logits: Tensor = fuse(u, q, present)

        return logits


class _Teacher:
    """A frozen module's self logits of one modality."""

    def __init__(self, module: nn.Module, modality: Modality) -> None:
        self._module = module
        self._modality = modality

    def self_logits(self, x: Call) -> Tensor:
        """Return the self logits of a call's samples."""
        return as_model_output(x.of(self._module)).self_logits[self._modality]

    def self_logits_of(self, features: Tensor) -> Tensor:
        """Refuse: a user's module keeps no features."""
        raise NotImplementedError("a module of the user's own has no features to go on from.")


@torch.no_grad()
def measure_adapted(model: AdaptedModel, batches: Iterable[Batch]) -> ClassStats:
    """Return the class statistics of a received module on the node's samples.

    Parameters
    ----------
    model
        Put into eval mode for it and back.
    batches
        The node's samples, each once.

    Returns
    -------
    Sums of the true class's probability, and numbers of samples.
    """
    was_training, classes = model.training, model.spec.num_classes
    device = next(model.parameters()).device
    model.eval()
    total = {name: np.zeros(classes) for name in model.owned}
    count = {name: np.zeros(classes, dtype=np.int64) for name in model.owned}
    for batch in (batch.to(device) for batch in batches):
        output = model(batch)
        for name in model.owned:
            rows = batch.present[:, model.spec.modalities.index(name)]
            labels = batch.labels[rows]
            probability = true_class_probability(output.self_logits[name][rows], labels)
            total[name] += (
                torch.bincount(labels, probability.double(), minlength=classes)
                .double()
                .cpu()
                .numpy()
            )
            count[name] += torch.bincount(labels, minlength=classes).cpu().numpy()

    model.train(was_training)

    return ClassStats(total, count)


def adapted_spec(
    module: nn.Module, modalities: Sequence[Modality], num_classes: int, structure: str
) -> ModelSpec:
    """Return the description of a module.

    Of its insides only the width of a concatenating fusion head is known.
    """
    fusion = getattr(module, "fusion", None)
    dim = fusion.output.in_features // len(modalities) if isinstance(fusion, ConcatFusion) else 0
    return ModelSpec(tuple(modalities), num_classes, dim, {}, "own", "own", structure)
