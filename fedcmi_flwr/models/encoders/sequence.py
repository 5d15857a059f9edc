"""Encoders of series that keep their order: sensors, and features of frames as channels over time.

Series are resampled to one length when they are prepared, so there are no padded moments to
leave out.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.models.encoders.base import Encoder, chosen_options

GRU_OPTIONS: Mapping[str, int] = {"width": 64, "layers": 1}
"""Units of each direction, and layers."""
TRANSFORMER_OPTIONS: Mapping[str, int] = {"width": 64, "layers": 2, "heads": 4, "patch": 4}
"""Width of a token, blocks, attention heads (which divide the width), and moments that make one
token."""


class GRU(Encoder):
    """A gated recurrent unit (Cho et al., EMNLP 2014) in both directions, averaged over time,
    linear to D.

    Parameters
    ----------
    modality
        What it reads, [channels, time] of any length.
    embedding_dim
        D, the size of z.
    normalization
        Not looked at: recurrent layers have none.
    options
        ``width``, ``layers``; GRU_OPTIONS where not given.
    frozen
        Whether the trunk will be frozen; the output layer is linear either way.
    """

    kinds: ClassVar[tuple[str, ...]] = ("series",)

    def __init__(
        self,
        modality: ModalitySpec,
        embedding_dim: int,
        normalization: str,
        options: Mapping[str, Any],
        frozen: bool,
    ) -> None:
        chosen = chosen_options("gru", options, GRU_OPTIONS)
        width = chosen["width"]
        trunk = nn.GRU(
            modality.channels, width, chosen["layers"], batch_first=True, bidirectional=True
        )
        super().__init__(trunk, nn.Linear(2 * width, embedding_dim))

    def read(self, x: Float[Tensor, "batch channels time"]) -> Float[Tensor, "batch features"]:
        """Return the states of both directions, averaged over time."""
        moments = x.transpose(1, 2)
        if not torch.compiler.is_compiling():
            states: Tensor = self.trunk(moments)[0]
            return states.mean(1)

        # in an exported graph one more sample goes along: onnxruntime's GRU crashes where there is
        # none
        more = torch.cat([moments, moments.new_zeros(1, *moments.shape[1:])])
        shown: Tensor = self.trunk(more)[0][:-1]

        return shown.mean(1)


class Block(nn.Module):
    """A transformer's block with layer norm first.

    Self-attention, then two linear layers with GELU between them.

    Parameters
    ----------
    width
        Of a token.
    heads
        Of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.next_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        """Return the tokens after the block."""
        parts = (
            self.query_key_value(self.norm(x))
            .unflatten(2, (3, self.heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
        seen = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        x = x + self.mixed(seen.transpose(1, 2).flatten(2))
        after: Tensor = x + self.narrow(functional.gelu(self.wide(self.next_norm(x))))

        return after


class Patches(nn.Module):
    """Moments -> tokens: each patch of moments by one linear map, and where it stands.

    Parameters
    ----------
    channels
        Of a moment.
    time
        Moments; the last patch is filled up with zeros.
    patch
        Moments of a token.
    width
        Of a token.
    """

    places: Tensor
    """[tokens, width], where each token stands."""

    def __init__(self, channels: int, time: int, patch: int, width: int) -> None:
        super().__init__()
        self.missing = -time % patch
        self.embedding = nn.Conv1d(channels, width, patch, stride=patch)
        self.register_buffer(
            "places", places((time + self.missing) // patch, width), persistent=False
        )

    def forward(
        self, x: Float[Tensor, "batch channels time"]
    ) -> Float[Tensor, "batch tokens width"]:
        """Return the tokens."""
        tokens: Tensor = self.embedding(functional.pad(x, (0, self.missing))).transpose(1, 2)
        return tokens + self.places


class MeanOverTime(nn.Module):
    """The mean of all tokens, after a layer norm.

    Parameters
    ----------
    width
        Of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch width"]:
        """Return one vector a sample."""
        normalised: Tensor = self.norm(x)
        return normalised.mean(1)


class Transformer1d(Encoder):
    """A transformer (Vaswani et al., 2017) over patches of moments, averaged over time, linear to
    D.

    Parameters
    ----------
    modality
        What it reads, [channels, time]; positions are those of its length.
    embedding_dim
        D, the size of z.
    normalization
        Not looked at: it has layer norm.
    options
        ``width``, ``layers``, ``heads``, ``patch``; TRANSFORMER_OPTIONS where not given.
    frozen
        Whether the trunk will be frozen; the output layer is linear either way.

    Raises
    ------
    ValueError
        The heads do not divide the width.
    """

    kinds: ClassVar[tuple[str, ...]] = ("series",)

    def __init__(
        self,
        modality: ModalitySpec,
        embedding_dim: int,
        normalization: str,
        options: Mapping[str, Any],
        frozen: bool,
    ) -> None:
        chosen = chosen_options("transformer-1d", options, TRANSFORMER_OPTIONS)
        width, heads = chosen["width"], chosen["heads"]
        if width % (2 * heads):
            raise ValueError(
                f"encoder 'transformer-1d' of modality {modality.name!r}: width = {width} must be "
                f"a multiple of twice its heads ({heads}); change one of them."
            )

        blocks = [Block(width, heads) for _ in range(chosen["layers"])]
        patches = Patches(modality.channels, modality.shape[1], chosen["patch"], width)
        super().__init__(
            nn.Sequential(patches, *blocks, MeanOverTime(width)), nn.Linear(width, embedding_dim)
        )


def places(count: int, width: int) -> Float[Tensor, "tokens width"]:
    """Return the sine and cosine of every position at ``width / 2`` wavelengths from 2 pi to 20,000
    pi.

    Parameters
    ----------
    count
        Positions.
    width
        Even.

    Returns
    -------
    [count, width], between -1 and 1: sines, then cosines.
    """
    rates = torch.exp(-math.log(10_000) * torch.arange(width // 2) / (width // 2))
    angles = torch.arange(count).unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)
