"""White noise of the samples of a split.

One generator's numbers, dealt row by row, whoever makes which row.
"""

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fedcmi_flwr.seeding import torch_generator


@dataclass(frozen=True)
class NoiseRow:
    """A sample's share of the noise of its split: the ``row``-th draw of a generator."""

    seed: int
    """0 or greater."""
    purpose: str
    """What the noise is for; different purposes give independent noise, as in ``seeding``."""
    row: int
    """0 or greater."""

    def draw(self, *shape: int) -> Float[Tensor, "..."]:
        """Draw the noise.

        Parameters
        ----------
        *shape
            Of every row of this noise. Where it has a multiple of 16 numbers, the rows are those
            of one draw of all.

        Returns
        -------
        [*shape], independent numbers of mean 0 and variance 1; the same whenever and wherever it
        is drawn.
        """
        return _rows(self.seed, self.purpose, shape).draw(self.row)


class _Rows:
    """A generator that goes on from the row it drew last, as rows mostly come in order, and begins
    again for others.
    """

    def __init__(self, seed: int, purpose: str, shape: tuple[int, ...]) -> None:
        self.seed, self.purpose, self.shape = seed, purpose, shape
        self._begin()

    def _begin(self) -> None:
        self.generator = torch_generator(self.seed, self.purpose)
        self.row = -1

    def draw(self, row: int) -> Tensor:
        """Return a row, drawing those before it that were not drawn yet."""
        if row < self.row:
            self._begin()

        while self.row < row:
            self.noise = torch.randn(self.shape, generator=self.generator)
            self.row += 1

        return self.noise


@functools.lru_cache(maxsize=8)
def _rows(seed: int, purpose: str, shape: tuple[int, ...]) -> _Rows:
    return _Rows(seed, purpose, shape)
