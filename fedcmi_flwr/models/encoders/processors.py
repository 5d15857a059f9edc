"""What a model's own processor does with samples: on its device, a whole batch at once.

A sample comes normalised by the federation's mean and deviation, which is undone first. Everything
is made of plain matrix products, so that it is exported with the model. Images and sound have files
of their own; tokens are here.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.models.encoders.image_processor import Images
from fedcmi_flwr.models.encoders.sound_processor import LogMel, Waveform


def processor_for(modality: ModalitySpec, trunk: nn.Module, fields: Mapping[str, Any]) -> nn.Module:
    """Return what leads from a batch as :class:`Views` shows it to the trunk's arguments.

    Parameters
    ----------
    modality
        The samples.
    trunk
        From ``towers.build_tower``.
    fields
        What of the processor decides the input, from ``published.read_processor``; none: samples
        go in as they are.

    Returns
    -------
    A module without trained weights or entries of the state_dict.

    Raises
    ------
    ValueError
        Samples that the model cannot read.
    """
    config: Any = trunk.config
    if modality.kind == "tokens":
        return Tokens(modality, trunk, config, fields)
    if modality.kind != "series":
        return Images(modality, config, fields)
    if modality.channels != 1:
        raise ValueError(
            f"modality {modality.name!r}: a series of {modality.channels} channels; the model "
            "reads the waveform of one: prepare the sound as kind `waveform`."
        )
    if trunk.main_input_name == "input_values":
        return Waveform(modality, fields)

    return LogMel(modality, config, fields)


class Tokens(nn.Module):
    """Give tokens their numbers in the model's own vocabulary, and mask padding.

    A tokenizer whose padding is token 0 has its numbers stored as they are; of another one they
    are stored one higher, and padding as 0. Position 0 is never masked, so that an empty text has
    a token too.

    Parameters
    ----------
    modality
        Tokens.
    trunk
        The model.
    config
        Its configuration.
    fields
        ``pad_token_id``: the tokenizer's; none: the configuration's.

    Raises
    ------
    ValueError
        More tokens than the model has positions.
    """

    def __init__(
        self,
        modality: ModalitySpec,
        trunk: nn.Module,
        config: Any,  # noqa: ANN401
        fields: Mapping[str, Any],
    ) -> None:
        super().__init__()
        padding = fields.get("pad_token_id", getattr(config, "pad_token_id", None))
        self.shift = 0 if padding == 0 else 1
        self.padding = int(padding or 0)

        positions = getattr(config, "max_position_embeddings", None)
        table = getattr(getattr(trunk, "embeddings", None), "position_embeddings", None)
        first = getattr(table, "padding_idx", None)
        if positions and first is not None:
            positions -= int(first) + 1  # RoBERTa counts from there

        if positions and modality.shape[0] > positions:
            raise ValueError(
                f"modality {modality.name!r}: samples of {modality.shape[0]} tokens, but the "
                f"model has {positions} positions; prepare the data with fewer tokens."
            )

    def forward(self, x: Int[Tensor, "batch time"]) -> dict[str, Tensor]:
        """Return the trunk's arguments."""
        mask = x > 0
        first = torch.arange(x.shape[1], device=x.device) == 0
        numbers = torch.where(mask, x - self.shift, self.padding)

        return {"input_ids": numbers, "attention_mask": (mask | first).long()}
