"""Encoders of tokens without pretrained weights or a vocabulary.

A table of embeddings that tokens share by hash.

They go with the hashed tokenizer (``--tokenizer hashed:4096``), whose tokens are hashes, and
read any other tokens too.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.models.encoders.base import Encoder, chosen_options

BAG_OPTIONS: Mapping[str, int] = {"buckets": 4096, "width": 64}
"""Rows of the table beside that of padding, and their length."""
CNN_OPTIONS: Mapping[str, int] = {**BAG_OPTIONS, "channels": 64}
"""The same, and channels of each convolution."""
WINDOWS = (3, 4, 5)
"""Tokens that the convolutions of a text-cnn see: Kim's."""


class Table(nn.Embedding):
    """Embeddings of tokens: row 0 for padding, one of the others for each token, by its number.

    Parameters
    ----------
    buckets
        Rows beside that of padding; tokens whose numbers are as far apart share one.
    width
        Length of a row.
    """

    def __init__(self, buckets: int, width: int) -> None:
        super().__init__(buckets + 1, width, padding_idx=0)

    def forward(self, x: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time width"]:
        """Return a row for each token; zeros for padding."""
        rows = torch.where(x > 0, (x - 1) % (self.num_embeddings - 1) + 1, 0)
        return super().forward(rows) * (x > 0).unsqueeze(2)


class BagOfWords(Encoder):
    """The mean of the tokens' embeddings (fastText: Joulin et al., EACL 2017), linear to D.

    Parameters
    ----------
    modality
        What it reads: [time] tokens, 0 for padding.
    embedding_dim
        D, the size of z.
    normalization
        Not looked at.
    options
        ``buckets``, ``width``; BAG_OPTIONS where not given.
    frozen
        Whether the trunk will be frozen; the output layer is linear either way.
    """

    kinds: ClassVar[tuple[str, ...]] = ("tokens",)

    def __init__(
        self,
        modality: ModalitySpec,
        embedding_dim: int,
        normalization: str,
        options: Mapping[str, Any],
        frozen: bool,
    ) -> None:
        chosen = chosen_options("bag-of-words", options, BAG_OPTIONS)
        super().__init__(
            Table(chosen["buckets"], chosen["width"]), nn.Linear(chosen["width"], embedding_dim)
        )

    def read(self, x: Int[Tensor, "batch time"]) -> Float[Tensor, "batch features"]:
        """Return the mean over tokens that are not padding; zeros of an empty text."""
        total: Tensor = self.trunk(x).sum(1)
        return total / (x > 0).sum(1, keepdim=True).clamp(min=1)


class Windows(nn.Module):
    """Convolutions over embedded tokens, ReLU, and the largest value of each channel.

    Parameters
    ----------
    buckets
        Of the table.
    width
        Of the table's rows.
    channels
        Of each convolution.
    """

    def __init__(self, buckets: int, width: int, channels: int) -> None:
        super().__init__()
        self.table = Table(buckets, width)
        self.convolutions = nn.ModuleList(nn.Conv1d(width, channels, window) for window in WINDOWS)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Int[Tensor, "batch time"]) -> Float[Tensor, "batch features"]:
        """Return the largest values; windows begin at every token, but not in the padding."""
        embedded, begins = self.table(x).transpose(1, 2), (x > 0).unsqueeze(1)
        largest = []
        for convolution, window in zip(self.convolutions, WINDOWS, strict=True):
            found = functional.relu(convolution(functional.pad(embedded, (0, window - 1))))
            largest.append((found * begins).amax(2))

        dropped: Tensor = self.dropout(torch.cat(largest, dim=1))

        return dropped


class TextCNN(Encoder):
    """Convolutions over windows of 3, 4 and 5 tokens, the largest value of each (Kim, EMNLP 2014),
    linear to D.

    Parameters
    ----------
    modality
        What it reads: [time] tokens, 0 for padding.
    embedding_dim
        D, the size of z.
    normalization
        Not looked at; between trunk and output layer stands Kim's dropout of one half.
    options
        ``buckets``, ``width``, ``channels``; CNN_OPTIONS where not given.
    frozen
        Whether the trunk will be frozen; the output layer is linear either way.
    """

    kinds: ClassVar[tuple[str, ...]] = ("tokens",)

    def __init__(
        self,
        modality: ModalitySpec,
        embedding_dim: int,
        normalization: str,
        options: Mapping[str, Any],
        frozen: bool,
    ) -> None:
        chosen = chosen_options("text-cnn", options, CNN_OPTIONS)
        trunk = Windows(chosen["buckets"], chosen["width"], chosen["channels"])
        super().__init__(trunk, nn.Linear(len(WINDOWS) * chosen["channels"], embedding_dim))
