"""Encoder of tokens: BERT, from the optional package transformers."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.machine.extras import needs
from fedcmi_flwr.models.encoders.base import Encoder, output_layer


class Bert(Encoder):
    """transformers' BertModel: its pooled output (768 numbers in BERT-base), linear to D.

    It has its own layer norm, whatever the run's normalization.

    Parameters
    ----------
    modality
        What it reads: [time] WordPiece tokens, 0 for padding.
    embedding_dim
        D, the size of z; a linear layer follows only where D is not BERT's own width, or the
        trunk is frozen.
    normalization
        Not looked at.
    options
        The fields of BERT's ``config.json``; none: BERT-base.
    frozen
        Whether the trunk will be frozen.

    Raises
    ------
    ValueError
        The package transformers is missing, or the tokens are more than the model has positions.
    """

    kinds: ClassVar[tuple[str, ...]] = ("tokens",)
    large: ClassVar[bool] = True

    def __init__(
        self,
        modality: ModalitySpec,
        embedding_dim: int,
        normalization: str,
        options: Mapping[str, Any],
        frozen: bool,
    ) -> None:
        with needs("text"):
            from transformers import BertConfig, BertModel

        config = BertConfig.from_dict(dict(options))
        if modality.shape[0] > config.max_position_embeddings:
            raise ValueError(
                f"modality {modality.name!r}: samples of {modality.shape[0]} tokens, but BERT has "
                f"{config.max_position_embeddings} positions; prepare the data with fewer tokens."
            )

        super().__init__(BertModel(config), output_layer(config.hidden_size, embedding_dim, frozen))
        self.width: int = config.hidden_size

    def read(self, x: Int[Tensor, "batch time"]) -> Float[Tensor, "batch features"]:
        """Return BERT's pooled output.

        Padding is masked, except at position 0, so that an empty text has one too.
        """
        mask = x != 0
        mask[:, 0] = True
        if x.shape[0] == 0:  # which BertModel cannot reshape
            return torch.zeros(0, self.width, device=x.device)

        pooled: Tensor = self.trunk(input_ids=x, attention_mask=mask.long()).pooler_output

        return pooled

    @classmethod
    def trunk_state(cls, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave pretraining's heads out of a published checkpoint, and give it the names of today's
        BertModel.
        """
        state = {}
        for name, value in published.items():
            if not name.startswith("cls."):
                plain = name.removeprefix("bert.").replace("LayerNorm.gamma", "LayerNorm.weight")
                state[plain.replace("LayerNorm.beta", "LayerNorm.bias")] = value

        state.pop("embeddings.position_ids", None)  # 0, 1, 2, ...: stored by older versions

        return state
