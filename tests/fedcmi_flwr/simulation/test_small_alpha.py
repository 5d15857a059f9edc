"""Deals that left nothing to draw from.

A very small alpha, and natural groups of which one is too small.
"""

import numpy as np
import pytest

from fedcmi_flwr.data.prepared import DataError
from fedcmi_flwr.simulation.deal import _FlooredDirichlet, deal


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05])
@pytest.mark.parametrize("seed", range(12))
def test_every_seed_deals_everything_once(alpha: float, seed: int) -> None:
    labels = np.arange(200, dtype=np.int64) % 10
    parts = deal(labels.tobytes(), ("",) * 200, ("dirichlet", alpha, 2), 10, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(200))


def test_draws_are_numpys_own() -> None:
    ours, numpys = _FlooredDirichlet(np.random.PCG64(3)), np.random.default_rng(3)
    assert ours.dirichlet([0.5, 0.5], 4).tolist() == numpys.dirichlet([0.5, 0.5], 4).tolist()
    assert ours.random() == numpys.random()


def test_a_small_natural_group_is_its_own_nodes_matter() -> None:
    labels, groups = np.zeros(13, dtype=np.int64), ("a",) * 6 + ("b",) * 6 + ("c",)
    parts = deal(labels.tobytes(), groups, ("natural", 1.0, 2), 3, 0)
    assert sorted(map(len, parts)) == [1, 6, 6]
    with pytest.raises(DataError, match="leave fewer than min-partition-size"):
        deal(labels.tobytes(), groups, ("natural", 1.0, 6), 3, 0)
