"""Which nodes own which modalities, and which of their samples lose one."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.config.sections import DataConfig
from fedcmi_flwr.data.prepared import DataError, load_split
from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.simulation.ownership import deal_modalities, owned_modalities, random_subsets
from fedcmi_flwr.simulation.partitions import partition, with_missing

THREE = ("audio", "visual", "touch")
CONFIG = DataConfig("x", "", "", "iid", 1.0, 2, 0.5, "multimodal-ratio", 0.0, 0.0, 0.0)


@pytest.mark.parametrize("nodes", [2, 3, 20])
@pytest.mark.parametrize("names", [("audio",), ("audio", "visual"), THREE])
def test_every_modality_has_an_owner_and_somebody_owns_two(
    names: tuple[str, ...], nodes: int
) -> None:
    for seed in range(20):
        dealt = random_subsets(names, nodes, seed)
        assert dealt == random_subsets(names, nodes, seed)
        assert len(dealt) == nodes
        assert all(owned == tuple(name for name in names if name in owned) for owned in dealt)
        assert set().union(*dealt) == set(names)
        assert all(dealt)
        assert max(map(len, dealt)) >= min(2, len(names))


def test_all_subsets_are_equally_likely() -> None:
    """7000 draws of 7 subsets: 1000 each, with a standard deviation of sqrt(1000 * 6 / 7) = 29."""
    found = Counter(random_subsets(THREE, 7000, seed=0))
    assert len(found) == 7
    assert all(abs(count - 1000) < 5 * 29 for count in found.values())


def test_too_few_nodes_are_refused() -> None:
    """One node owns all of thirty modalities once in 2^30 - 1 draws."""
    with pytest.raises(DataError, match=r"1000 draws for 1 nodes.*Use more nodes"):
        random_subsets(tuple(f"m{index}" for index in range(30)), 1, seed=0)


def test_the_key_says_how_modalities_are_dealt() -> None:
    assert deal_modalities(THREE, CONFIG, 6, 3) == owned_modalities(THREE, 0.5, 6, 3)
    assert deal_modalities(
        THREE, replace(CONFIG, ownership="random-subsets"), 6, 3
    ) == random_subsets(THREE, 6, 3)


def test_not_every_sample_can_lack_something() -> None:
    with pytest.raises(
        ConfigError, match=r"missing-share = 1.0: must be a number from 0 to below 1"
    ):
        replace(CONFIG, missing_share=1.0)


def _some_absent() -> Samples:
    """Return 50 samples of which the last 10 have touch alone, and one between has no touch.

    Rows 5 to 49 are meant.
    """
    samples = oracle.samples(50, THREE)
    has = samples.has.copy()
    has[40:, :2] = False
    has[39, 2] = False
    return replace(samples, has=has, rows=np.arange(5, 50))


@pytest.mark.parametrize(
    ("share", "count"), [(0.0, 0), (0.01, 0), (0.3, 10), (0.5, 18), (0.99, 35)]
)
def test_a_share_of_the_samples_with_several_modalities_loses_one(share: float, count: int) -> None:
    """35 of the 45 have several; Python rounds 17.5 to 18 and 10.5 to 10, the even one."""
    before = _some_absent()
    after = with_missing(before, share, 3, seed=1)
    lost = before.has & ~after.has
    assert not (after.has & ~before.has).any()
    assert sorted(lost.sum(axis=1).tolist()) == [0] * (50 - count) + [1] * count
    assert not lost[:5].any()
    assert not lost[40:].any()
    assert not lost[39, 2]
    assert after.arrays is before.arrays
    assert np.array_equal(after.rows, before.rows)
    assert before.has.sum() == _some_absent().has.sum()


def test_each_modality_is_lost_as_often() -> None:
    """Of 3000 samples 1500 lose one of three.

    500 each, with a standard deviation of sqrt(1500 * 2 / 9) = 18.
    """
    samples = oracle.samples(3, THREE)
    many = replace(
        samples,
        has=np.ones((3000, 3), dtype=bool),
        rows=np.arange(3000),
        labels=np.arange(3000) % 3,
    )
    lost = (~with_missing(many, 0.5, 0, seed=0).has).sum(axis=0)
    assert lost.sum() == 1500
    assert all(abs(count - 500) < 5 * 18 for count in lost)


def test_what_is_lost_follows_seed_and_partition_and_no_order() -> None:
    samples = _some_absent()
    found = {
        key: with_missing(samples, 0.5, *key).has.tobytes() for key in ((0, 0), (1, 0), (0, 1))
    }
    assert len(set(found.values())) == 3
    turned = replace(samples, modalities=samples.modalities[::-1], has=samples.has[:, ::-1])
    assert with_missing(turned, 0.5, 1, 0).has[:, ::-1].tobytes() == found[1, 0]


def test_a_partition_loses_what_the_key_says(tmp_path: Path) -> None:
    """Two nodes of 30 samples: 9 of each lack one.

    The samples themselves are those of a run without.
    """
    everything = {name: np.ones(60, dtype=bool) for name in THREE}
    split = load_split(oracle.prepare(tmp_path / "toy", everything), "train")
    whole = [partition(split, CONFIG, 2, part, 0) for part in range(2)]
    less = [partition(split, replace(CONFIG, missing_share=0.3), 2, part, 0) for part in range(2)]
    for before, after in zip(whole, less, strict=True):
        assert np.array_equal(before.rows, after.rows)
        assert sum(after.modality_counts.values()) == 90 - 9
        assert before.modality_counts == dict.fromkeys(THREE, 30)
    one = load_split(tmp_path / "toy", "train", ("audio",))
    assert partition(one, replace(CONFIG, missing_share=0.9), 2, 0, 0).modality_counts == {
        "audio": 30
    }
