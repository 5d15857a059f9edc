"""data_prep.media.noise: rows are those of one draw of all, in whatever order and process they are
drawn.
"""

import pytest
import torch

from data_prep.media.noise import NoiseRow, _rows
from fedcmi_flwr.seeding import torch_generator


@pytest.mark.parametrize("shape", [(6144,), (28, 28)])
def test_rows_are_those_of_one_draw(shape: tuple[int, ...]) -> None:
    whole = torch.randn((5, *shape), generator=torch_generator(3, "toys/train/noise"))
    for row in (0, 1, 4, 4, 2):
        assert torch.equal(NoiseRow(3, "toys/train/noise", row).draw(*shape), whole[row])


def test_a_row_does_not_depend_on_what_was_drawn_before() -> None:
    """A worker that begins in the middle finds the same row."""
    NoiseRow(0, "toys", 2).draw(16)
    seen = NoiseRow(0, "toys", 7).draw(16)
    _rows.cache_clear()
    assert torch.equal(NoiseRow(0, "toys", 7).draw(16), seen)


@pytest.mark.parametrize("other", [NoiseRow(1, "a", 0), NoiseRow(0, "b", 0), NoiseRow(0, "a", 1)])
def test_seed_purpose_and_row_make_other_noise(other: NoiseRow) -> None:
    assert not torch.equal(NoiseRow(0, "a", 0).draw(16), other.draw(16))
