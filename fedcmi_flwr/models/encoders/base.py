"""What every encoder is: a trunk, which may be pretrained or frozen, and an output layer to R^D."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

GROUPS = 8
"""Of group norm at most."""


def norm_groups(width: int) -> int:
    """Return the largest number of groups, up to GROUPS, that divides a layer's width.

    Parameters
    ----------
    width
        Channels, 1 or more.

    Returns
    -------
    Number of groups.

    Examples
    --------
    >>> [norm_groups(width) for width in (64, 12, 15, 7, 1)]
    [8, 6, 5, 7, 1]
    """
    return max(groups for groups in range(1, GROUPS + 1) if width % groups == 0)


def group_norm(width: int) -> nn.Module:
    """Return the group norm of a layer of this width."""
    return nn.GroupNorm(norm_groups(width), width)


NORMALIZATIONS = ("batch", "group")
"""Batch norm's statistics are those of a node's own, often lopsided, batches; group norm (Wu and
He, ECCV 2018) has none and is the one that holds under label skew (Hsieh et al., ICML 2020)."""


class Encoder(nn.Module):
    """E_m: output(trunk(x)).

    Parameters
    ----------
    trunk
        [batch, ...] -> [batch, width].
    output
        [batch, width] -> [batch, D].
    """

    kinds: ClassVar[tuple[str, ...]] = ()
    """Kinds of modality that it reads."""
    large: ClassVar[bool] = False
    """Whether it is large enough for another layout and number format to pay."""

    def __init__(self, trunk: nn.Module, output: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.output = output
        self.frozen = False
        self.in_bfloat16 = False
        """Whether the trunk computes in bfloat16; its weights stay float32, and so does the
        output layer."""
        self.given_features = False
        """Whether it is given what a frozen trunk made of the samples, instead of the samples."""

    def freeze(self) -> None:
        """Leave the trunk as it is from now on.

        No gradients, and eval mode whatever mode the model is in.
        """
        self.frozen = True
        self.trunk.requires_grad_(False)
        self.trunk.eval()

    def train(self, mode: bool = True) -> "Encoder":
        """Set the mode; a frozen trunk stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.trunk.eval()

        return self

    def forward(self, x: Shaped[Tensor, "batch ..."]) -> Float[Tensor, "batch dim"]:
        """Return z of each sample."""
        z: Tensor = self.output(self.features(x))
        return z

    def features(self, x: Shaped[Tensor, "batch ..."]) -> Float[Tensor, "batch features"]:
        """Return what the trunk makes of each sample."""
        if self.given_features:
            return x
        if not self.in_bfloat16:
            return self.read(x)

        with torch.autocast(x.device.type, torch.bfloat16):
            read = self.read(x)

        return read.float()

    def read(self, x: Shaped[Tensor, "batch ..."]) -> Float[Tensor, "batch features"]:
        """Return the trunk's output in the format that it computes in."""
        width: Tensor = self.trunk(x)
        return width

    def merge_adapter(self) -> None:
        """Let an adapter become part of the trunk, where there is one."""

    @classmethod
    def trunk_state(cls, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a published state_dict of this architecture as the trunk names and needs it."""
        return dict(published)


def output_layer(width: int, embedding_dim: int, frozen: bool) -> nn.Module:
    """Return the layer from the trunk to R^D.

    None where the trunk ends in R^D and is trained itself.
    """
    return (
        nn.Identity() if width == embedding_dim and not frozen else nn.Linear(width, embedding_dim)
    )


def no_options(name: str, options: Mapping[str, object]) -> None:
    """Raise ValueError for options of an encoder that has none."""
    if options:
        raise ValueError(f"encoder {name!r} has no options, found {dict(options)}.")


def chosen_options(
    name: str, options: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return an encoder's options, defaults where not given.

    Raise ValueError for one that it does not have.
    """
    no_options(name, {key: value for key, value in options.items() if key not in defaults})
    return {**defaults, **options}
