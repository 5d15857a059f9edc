"""Prepared directory -> partitions -> batches.

Nothing is lost, nothing is random twice, nonsense is refused.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch

from data_prep.builtin import locate
from fedcmi_flwr.config.sections import DataConfig
from fedcmi_flwr.data.prepared import DataError, check_modality_names, load_split
from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.simulation.ownership import owned_modalities
from fedcmi_flwr.simulation.partitions import own_samples, partition
from fedcmi_flwr.simulation.parts import training_parts

TWO = ("audio", "visual")
COUNT = 60
ABSENT = {3: "audio", 10: "audio", 11: "visual", 40: "visual"}


def _present() -> dict[str, np.ndarray]:
    present = {name: np.ones(COUNT, dtype=bool) for name in TWO}
    for row, name in ABSENT.items():
        present[name][row] = False
    present["audio"][20] = present["visual"][20] = False  # a sample without any modality
    return present


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 60 samples of three classes, some without a modality, one without any."""
    return oracle.prepare(tmp_path_factory.mktemp("prepared") / "toy", _present())


def _config(kind: str, alpha: float = 1.0, least: int = 2) -> DataConfig:
    return DataConfig("x", "", "", kind, alpha, least, 1.0, "multimodal-ratio", 0.0, 0.0, 0.0)


def _dealt(samples: Samples, config: DataConfig, nodes: int, seed: int = 0) -> list[list[int]]:
    return [partition(samples, config, nodes, part, seed).rows.tolist() for part in range(nodes)]


@pytest.mark.parametrize("nodes", [1, 3, 4])
@pytest.mark.parametrize("kind", ["iid", "dirichlet", "natural"])
def test_partitions_are_disjoint_and_cover_every_usable_sample(
    prepared: Path, kind: str, nodes: int
) -> None:
    samples = load_split(prepared, "train")
    dealt = _dealt(samples, _config(kind), nodes)
    assert sorted(row for rows in dealt for row in rows) == [
        row for row in range(COUNT) if row != 20
    ]


@pytest.mark.parametrize("kind", ["iid", "dirichlet"])
def test_partitions_follow_the_seed(prepared: Path, kind: str) -> None:
    samples = load_split(prepared, "train")
    dealt = [_dealt(samples, _config(kind), 4, seed) for seed in (0, 0, 1)]
    assert dealt[0] == dealt[1]
    assert dealt[0] != dealt[2]


def test_a_node_that_sees_one_modality_is_dealt_the_same_samples(prepared: Path) -> None:
    """Otherwise two nodes could hold the same sample."""
    whole = _dealt(load_split(prepared, "train"), _config("dirichlet"), 4)
    ears = _dealt(load_split(prepared, "train", ("audio",)), _config("dirichlet"), 4)
    for all_rows, audio_rows in zip(whole, ears, strict=True):
        assert audio_rows == [row for row in all_rows if row not in (3, 10)]


def test_natural_partitions_keep_groups_whole(prepared: Path) -> None:
    """Five groups over 3 nodes: sample i is of group i % 5, and nobody shares a group."""
    groups = [
        {row % 5 for row in rows}
        for rows in _dealt(load_split(prepared, "train"), _config("natural"), 3)
    ]
    assert sorted(map(len, groups)) == [1, 2, 2]
    assert set.union(*groups) == set(range(5))


def test_smaller_alpha_is_more_skewed_and_sizes_are_balanced(prepared: Path) -> None:
    samples = load_split(prepared, "train")

    def largest_share(alpha: float) -> float:
        shares = []
        for rows in _dealt(samples, _config("dirichlet", alpha), 5):
            assert 11 <= len(rows) <= 12
            shares.append(np.bincount(samples.labels[rows], minlength=3).max() / len(rows))
        return float(np.mean(shares))

    assert largest_share(0.05) > largest_share(1000.0) + 0.2


@pytest.mark.parametrize(
    ("kind", "nodes", "least", "words"),
    [
        ("natural", 6, 2, "6 nodes but only 5 groups"),
        ("iid", 10, 7, "min-partition-size = 7"),
        ("dirichlet", 10, 7, "min-partition-size = 7"),
        ("natural", 5, 13, "min-partition-size = 13"),
        ("natural", 4, 13, "1 has 12 samples.*min-partition-size = 13: .*this node takes no part"),
        ("iid", 61, 2, "61 nodes"),
        ("dirichlet", 61, 2, "61 nodes"),
    ],
)
def test_what_cannot_be_dealt_is_refused_with_the_numbers(
    prepared: Path, kind: str, nodes: int, least: int, words: str
) -> None:
    with pytest.raises(DataError, match=f"{kind} partition.*{words}"):
        partition(load_split(prepared, "train"), _config(kind, least=least), nodes, 1, 0)


def test_a_partition_without_usable_samples_is_refused(tmp_path: Path) -> None:
    present = {"audio": np.arange(12) < 1, "visual": np.ones(12, dtype=bool)}
    directory = oracle.prepare(tmp_path / "toy", present)
    with pytest.raises(
        DataError, match=r"partition 0: [01] of its 6 samples have any of \['audio'\]"
    ):
        partition(load_split(directory, "train", ("audio",)), _config("iid"), 2, 0, 0)


@pytest.mark.parametrize(
    ("ratio", "nodes", "multimodal"),
    [(1.0, 5, 5), (0.0, 6, 0), (0.5, 4, 2), (0.5, 8, 4), (0.3, 10, 3), (0.9, 1, 1)],
)
@pytest.mark.parametrize("modalities", [TWO, ("a", "b", "c")])
def test_the_ratio_says_how_many_nodes_keep_everything(
    modalities: tuple[str, ...], ratio: float, nodes: int, multimodal: int
) -> None:
    owned = owned_modalities(modalities, ratio, nodes, seed=3)
    assert owned == owned_modalities(modalities, ratio, nodes, seed=3)
    assert sum(names == modalities for names in owned) == multimodal
    alone = [sum(names == (name,) for names in owned) for name in modalities]
    assert sum(alone) == nodes - multimodal
    assert max(alone) - min(alone) <= 1


def test_another_seed_owns_otherwise() -> None:
    assert len({tuple(owned_modalities(TWO, 0.5, 10, seed)) for seed in range(5)}) > 1


def test_a_split_knows_who_has_what(prepared: Path) -> None:
    samples = load_split(prepared, "train")
    assert len(samples) == COUNT - 1
    assert samples.has.tolist() == np.stack([_present()[name] for name in TWO], axis=1).tolist()
    assert len(load_split(prepared, "train", ("visual",))) == COUNT - 3
    assert samples.sources.tolist()[:6] == ["g0", "g1", "g2", "g3", "g4", "g0"]


def test_batches_are_normalised_and_blank_where_absent(prepared: Path) -> None:
    """The toy modalities are stored with mean 0.5 and standard deviation 2.

    The federation has a third one in front.
    """
    samples = load_split(prepared, "train")
    batch = samples.batch(np.array([0, 3, 11]), ("touch", *TWO))
    stored = np.load(prepared / "train" / "audio.npy")
    assert batch.inputs["audio"][0].numpy() == pytest.approx((stored[0] - 0.5) / 2)
    assert not batch.inputs["audio"][1].any()
    assert not batch.inputs["visual"][2].any()
    assert batch.inputs["visual"][1].any()
    assert batch.present.tolist() == [
        [False, True, True],
        [False, False, True],
        [False, True, False],
    ]
    assert batch.labels.tolist() == [0, 0, 2]
    assert not batch.complete
    whole = samples.batch(np.array([0, 1]), TWO)
    assert whole.complete
    assert whole.present.all()


def test_storage_on_disk_is_left_alone(prepared: Path) -> None:
    before = (prepared / "train" / "audio.npy").read_bytes()
    batch = load_split(prepared, "train").batch(np.arange(COUNT - 1), TWO)
    batch.inputs["audio"].zero_()
    assert (prepared / "train" / "audio.npy").read_bytes() == before


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(8, [4, 4]), (9, [4, 5]), (10, [4, 4, 2]), (3, [3]), (5, [5]), (1, [1])],
)
def test_an_epoch_covers_each_sample_once_and_a_single_tail_joins(
    count: int, sizes: list[int]
) -> None:
    samples = oracle.samples(30).select(np.arange(count) * 3)
    batches = list(samples.training_batches(4, TWO, torch.Generator().manual_seed(0)))
    assert [len(batch.labels) for batch in batches] == sizes
    seen = np.concatenate([batch.inputs["audio"].numpy() for batch in batches])
    expected = samples.arrays["audio"][samples.rows]
    assert sorted(seen.sum(axis=(1, 2, 3)).tolist()) == pytest.approx(
        sorted(expected.sum(axis=(1, 2, 3)).tolist())
    )


def test_the_order_follows_the_generator_and_changes_from_epoch_to_epoch() -> None:
    samples = oracle.samples(20)

    def epochs(seed: int) -> list[list[float]]:
        generator = torch.Generator().manual_seed(seed)
        return [
            next(samples.training_batches(20, TWO, generator))
            .inputs["audio"]
            .sum((1, 2, 3))
            .tolist()
            for _ in "ab"
        ]

    assert epochs(1) == epochs(1)
    assert epochs(1)[0] != epochs(1)[1]
    assert epochs(1) != epochs(2)


def test_batches_without_chance_keep_the_stored_order() -> None:
    samples = oracle.samples(10).select(np.array([7, 2, 5]))
    assert [batch.labels.tolist() for batch in samples.batches(2, TWO)] == [[1, 2], [2]]


def test_what_is_not_there_is_named(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"modality 'smell' is not stored there, only \['audio', 'visual'\]"
    ):
        load_split(prepared, "train", ("audio", "smell"))
    with pytest.raises(DataError, match=r"data = .*nowhere.*av-digits"):
        locate(str(tmp_path / "nowhere"))
    assert locate(str(prepared)) == prepared


@pytest.mark.parametrize("name", ["shared", "a.b", "a/b", "a b", "", "values", "type"])
def test_modality_names_that_cannot_name_parameters_are_refused(name: str) -> None:
    check_modality_names(["audio", "text-2", "left_eye"])
    with pytest.raises(DataError, match=f"modality {name!r}"):
        check_modality_names(["audio", name])


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "natural"])
def test_nodes_train_on_what_the_server_does_not_validate_on(prepared: Path, kind: str) -> None:
    """One of five groups is cut off, with 4 of 20 samples a class.

    One of the 60 has no modality and is nobody's.
    """
    samples, config = load_split(prepared, "train"), replace(_config(kind), validation_share=0.25)
    held_out = np.intersect1d(training_parts(samples, config, seed=0).validation, samples.rows)
    dealt = [row for rows in _dealt(samples, config, 4) for row in rows]
    assert sorted([*dealt, *held_out]) == [row for row in range(COUNT) if row != 20]
    assert len(held_out) in (11, 12)
    assert len({row % 5 for row in held_out}) == 1
    ears = load_split(prepared, "train", ("audio",))
    heard = [row for rows in _dealt(ears, config, 4) for row in rows]
    assert set(heard) <= set(dealt)


@pytest.mark.parametrize(
    ("validation", "calibration"), [(0.25, 0.2), (0.0, 0.2), (0.25, 0.0), (0.0, 0.0)]
)
def test_no_sample_is_in_two_parts(prepared: Path, validation: float, calibration: float) -> None:
    """A part is one of five groups, with 4 of 20 samples a class, and there are none without a
    share.
    """
    samples = load_split(prepared, "train")
    config = replace(_config("iid"), validation_share=validation, calibration_share=calibration)
    parts = training_parts(samples, config, seed=0)
    whole = [*parts.training.tolist(), *parts.validation.tolist(), *parts.calibration.tolist()]
    assert sorted(whole) == list(range(COUNT))
    for part, share in ((parts.validation, validation), (parts.calibration, calibration)):
        assert np.bincount(samples.labels[part], minlength=3).tolist() == [4 if share else 0] * 3
        assert len({row % 5 for row in part.tolist()}) == (1 if share else 0)
    dealt = [row for rows in _dealt(samples, config, 4) for row in rows]
    assert sorted(dealt) == [row for row in parts.training.tolist() if row != 20]
    without = training_parts(samples, replace(config, calibration_share=0.0), seed=0)
    assert without.validation.tolist() == parts.validation.tolist()


@pytest.mark.parametrize("key", ["validation-share", "calibration-share", "missing-share"])
def test_a_device_with_data_of_its_own_takes_nothing_away(prepared: Path, key: str) -> None:
    config = replace(_config("iid"), **{key.replace("-", "_"): 0.2})
    with pytest.raises(DataError, match=rf"{key} = 0\.2: is for simulations"):
        own_samples(load_split(prepared, "train"), config, "train")
