"""Random numbers: the same for the same purpose, round and partition, and no others."""

import itertools

import pytest
import torch

from fedcmi_flwr.seeding import derive_seed, numpy_generator, torch_generator, torch_global_seed

KEYS = list(itertools.product((0, 1), ("model", "batches"), (0, 1), (0, 1)))


def test_every_key_has_numbers_of_its_own() -> None:
    seeds = [derive_seed(*key) for key in KEYS]
    assert len(set(seeds)) == len(KEYS)
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert [derive_seed(*key) for key in KEYS] == seeds
    assert len({numpy_generator(*key).random() for key in KEYS}) == len(KEYS)
    assert len({torch_generator(*key).initial_seed() for key in KEYS}) == len(KEYS)


def test_numbers_stay_what_they_were() -> None:
    """A change here changes the numbers of every published run.

    Say so under "Numerics" in CHANGELOG.md.
    """
    assert derive_seed(0, "model") == 595657096
    assert derive_seed(7, "batches", 3, 11) == 1600168476


@pytest.mark.parametrize("fails", [False, True])
def test_the_global_generator_is_restored(fails: bool) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    try:
        with torch_global_seed(0, "model"):
            inside = torch.rand(3)
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert torch.equal(torch.rand(3), expected)
    with torch_global_seed(0, "model"):
        assert torch.equal(torch.rand(3), inside)
