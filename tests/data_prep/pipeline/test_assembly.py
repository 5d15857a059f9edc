"""data_prep.pipeline.assembly: normalisation by what the train split holds, and nothing of what was
left out.
"""

from pathlib import Path

import numpy as np
import pytest
from stored import StoredSplit

from data_prep.errors import PrepError
from data_prep.pipeline import assembly
from data_prep.pipeline.plan import MEASURED, Plan, Stream
from data_prep.pipeline.prepare import prepare_plan
from fedcmi_flwr.data.schema import ModalitySpec, array_path, read_spec


def _prepare(
    out: Path, train: np.ndarray, kind: str, present: np.ndarray | None = None
) -> ModalitySpec:
    """Prepare a modality of this kind beside one that all samples have.

    Return what is said of it.
    """
    ids = [f"{row}" for row in range(len(train))]
    arrays = {"measured": train, "other": np.ones((len(train), 1, 1))}
    has = {"measured": present} if present is not None else {}
    splits = {
        "train": StoredSplit(
            ids, np.arange(len(train)) % 2, ids, dict.fromkeys(arrays, ids), arrays, has
        )
    }
    streams = [
        Stream("measured", kind, train.shape[1:], train.dtype.name, np.asarray, {}, MEASURED),
        Stream("other", "series", (1, 1), "float64", np.asarray, {}),
    ]
    plan = Plan(("no", "yes"), streams, splits["train"].planned("train"))
    return read_spec(prepare_plan(out, "made", {}, lambda: plan)).modalities[0]


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(3, 2, shape).astype(np.float32)


def test_a_spectrogram_has_one_mean_and_deviation(tmp_path: Path) -> None:
    train = _noise(50, 2, 6, 7)
    made = _prepare(tmp_path / "out", train, "spectrogram")
    assert (made.mean, made.std) == pytest.approx(
        (train.mean(dtype=float), train.std(dtype=float)), rel=1e-12
    )


def test_a_series_has_one_of_each_channel(tmp_path: Path) -> None:
    train = _noise(50, 3, 7) * np.array([[1], [10], [100]], np.float32)
    made = _prepare(tmp_path / "out", train, "series")
    assert made.mean == pytest.approx(train.mean(axis=(0, 2), dtype=float).tolist(), rel=1e-12)
    assert made.std == pytest.approx(train.std(axis=(0, 2), dtype=float).tolist(), rel=1e-12)


def test_large_splits_are_measured_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = _noise(50, 3, 7)
    monkeypatch.setattr(assembly, "CHUNK_BYTES", 4 * train[0].nbytes)
    made = _prepare(tmp_path / "out", train, "series")
    assert made.std == pytest.approx(train.std(axis=(0, 2), dtype=float).tolist(), rel=1e-12)


def test_samples_without_the_modality_do_not_count(tmp_path: Path) -> None:
    train, present = _noise(50, 1, 7), np.arange(50) % 3 > 0
    made = _prepare(tmp_path / "out", train, "series", present)
    assert (made.mean, made.std) == pytest.approx(
        (train[present].mean(dtype=float), train[present].std(dtype=float))
    )
    stored = np.load(array_path(tmp_path / "out", "train", "measured"))
    assert not stored[~present].any()


def test_a_channel_that_never_changes_is_only_centred(tmp_path: Path) -> None:
    train = _noise(20, 2, 7)
    train[:, 1] = 5
    made = _prepare(tmp_path / "out", train, "series")
    assert isinstance(made.mean, tuple)
    assert isinstance(made.std, tuple)
    assert (made.mean[1], made.std[1]) == (5, 1)


def test_what_never_changes_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PrepError, match="measured never changes in the train split"):
        _prepare(tmp_path / "out", np.full((20, 2, 7), 5, np.float32), "series")


def test_what_no_train_sample_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PrepError, match="no train sample has measured"):
        _prepare(tmp_path / "out", _noise(4, 1, 7), "series", np.zeros(4, bool))
