"""Any Hugging Face AutoModel or AutoBackbone of the right input, with its own processor.

``encoder = "image=auto:DIR"`` takes ``config.json``, the weights and the processor's files of DIR,
as ``save_pretrained`` writes them; ``towers.py`` builds the trunk, ``processors.py`` does what the
processor says.
"""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.models.adapters import attach, merged, published_names, set_mode
from fedcmi_flwr.models.encoders.base import Encoder, chosen_options, output_layer
from fedcmi_flwr.models.encoders.processors import processor_for
from fedcmi_flwr.models.encoders.towers import build_tower, width_of

AUTO = "auto"
"""The encoder's name; a location may follow it."""
PREFIX = f"{AUTO}:"
"""Begins "auto:NAME_OR_DIR"."""


class Auto(Encoder):
    """A tower of a Hugging Face model, reduced to one vector a sample, linear to D.

    Images: what the model pools without learned weights (CLIP, DINOv2, convolutional networks),
    else the first token; frames: the mean of that over time. Waveforms: the mean of the last
    hidden states over time. Tokens: CLIP's own choice of one token, else the mean of the last
    hidden states over tokens that are not padding. Of a backbone: the mean of its last feature
    map.

    It has its own layers of normalization, whatever the run's. Learned poolers are left out, since
    many checkpoints lack them, and so are layer drop and the masking of wav2vec2's pretraining.

    Parameters
    ----------
    modality
        What it reads.
    embedding_dim
        D, the size of z; a linear layer follows only where D is not the model's own width, or the
        trunk is frozen.
    normalization
        Not looked at.
    options
        ``config``: the fields of ``config.json``; ``processor``: what of the processor decides the
        input; ``adapter``: fields of :class:`~fedcmi_flwr.models.adapters.Lora`.
    frozen
        Whether the trunk will be frozen.

    Raises
    ------
    ValueError
        No ``config``, a model of another input, or a modality that it cannot read.
    MissingExtraError
        transformers is not installed.
    """

    kinds: ClassVar[tuple[str, ...]] = ("image", "frames", "series", "tokens")
    large: ClassVar[bool] = True

    def __init__(
        self,
        modality: ModalitySpec,
        embedding_dim: int,
        normalization: str,
        options: Mapping[str, Any],
        frozen: bool,
    ) -> None:
        chosen = chosen_options(AUTO, options, {"config": {}, "processor": {}, "adapter": {}})
        if not chosen["config"]:
            raise ValueError(
                f"encoder 'auto' of modality {modality.name!r}: which model? Name its directory, "
                f"or its name on the Hugging Face hub: encoder = '{modality.name}=auto:DIR'."
            )

        trunk = build_tower(chosen["config"], modality)
        self.width: int = width_of(trunk)
        super().__init__(trunk, output_layer(self.width, embedding_dim, frozen))
        self.kind, self.modality = modality.kind, modality
        self.source = json.dumps(chosen["config"], sort_keys=True)
        """What ``towers.tower_state`` finds the published weights by."""
        self.processor = processor_for(modality, trunk, chosen["processor"])
        self.adapted = bool(chosen["adapter"])
        if self.adapted:
            attach(trunk, chosen["adapter"])

    def train(self, mode: bool = True) -> "Auto":
        """Set the mode; of a trunk with adapters, theirs alone."""
        super().train(mode)
        if self.adapted:
            set_mode(self.trunk, mode)

        return self

    def merge_adapter(self) -> None:
        """Let the adapter become part of the trunk, which gives the same but for rounding."""
        if self.adapted:
            self.trunk, self.adapted = merged(self.trunk), False

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Load the trunk's published weights, whether it has adapters or not."""
        names = published_names(self.trunk)
        self.trunk.load_state_dict(
            {names[name]: value for name, value in state.items()}, strict=not self.adapted
        )

    def read(self, x: Shaped[Tensor, "batch ..."]) -> Float[Tensor, "batch features"]:
        """Return one vector for each sample."""
        if x.shape[0] == 0:  # which many models cannot reshape
            return torch.zeros(0, self.width, device=x.device)
        if self.kind != "frames":
            return self._pooled(self._processed(x))

        frames = self._pooled(self._processed(x.flatten(0, 1)))
        mean: Tensor = frames.unflatten(0, x.shape[:2]).mean(1)

        return mean

    def _processed(self, x: Tensor) -> dict[str, Tensor]:
        """Return the trunk's arguments; in float32, whatever the trunk computes in."""
        if not self.in_bfloat16:
            return dict(self.processor(x))
        with torch.autocast(x.device.type, enabled=False):
            return dict(self.processor(x))

    def _pooled(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "batch features"]:
        found = self.trunk(**inputs)
        maps = getattr(found, "feature_maps", None)
        if maps is not None:
            last: Tensor = maps[-1]
            return last.flatten(2).mean(2)

        pooled: Tensor | None = getattr(found, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)

        states: Tensor = found.last_hidden_state
        if states.ndim == 4:  # of a convolutional network
            return states.flatten(2).mean(2)
        if self.kind in ("image", "frames"):
            return states[:, 0]
        if "attention_mask" not in inputs:
            return states.mean(1)

        mask = inputs["attention_mask"].unsqueeze(2)
        mean: Tensor = (states * mask).sum(1) / mask.sum(1)

        return mean
