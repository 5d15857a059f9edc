"""fedcmi_flwr.inference: any subset of the modalities, as stored, gives the probabilities of its
decision.
"""

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import kinds
import numpy as np
import pytest
import saved
import torch

from fedcmi_flwr.data.views import Views
from fedcmi_flwr.evaluation.decision import Decisions, scores
from fedcmi_flwr.inference.predictions import Prediction, accuracy, predictions, prepared_chunks
from fedcmi_flwr.inference.predictor import InputError, Predictor
from fedcmi_flwr.models.file import CheckpointError
from fedcmi_flwr.types import Batch

INPUTS = (kinds.SPECTROGRAM, kinds.FRAMES, kinds.SERIES)
NAMES = tuple(modality.name for modality in INPUTS)
LONG_TOKENS = replace(kinds.TOKENS, dtype="int64")
SUBSETS = [subset for size in (1, 2, 3) for subset in combinations(NAMES, size)]
DECISIONS = {
    "audio": {"fusion": 0.0, "self-heads": 1.0, "infiltration-heads": 0.0, "temperature": 2.0, "calibrated": True},
    "audio+motion": {"fusion": 1.0, "self-heads": 0.5, "infiltration-heads": 0.0, "temperature": 0.5,
                     "calibrated": True},
}  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    notes = {"decisions": DECISIONS, "run-config": {"view-size": 32, "view-frames": 3}}
    return saved.save(tmp_path_factory.mktemp("run") / "model.safetensors", INPUTS, notes)


@pytest.fixture(scope="module")
def predictor(path: Path) -> Predictor:
    return Predictor.load(path, "cpu")


@pytest.fixture
def samples() -> dict[str, np.ndarray]:
    return {m.name: kinds.values(m, np.arange(7) % 2, 5) for m in INPUTS}


def expected(
    predictor: Predictor, samples: dict[str, np.ndarray], subset: tuple[str, ...]
) -> np.ndarray:
    """Return softmax(scores / T) in NumPy, of samples that are normalised by hand."""
    views, shown = Views(size=32, frames=3), {}
    for modality in INPUTS:
        if modality.name in subset:
            indices = views.frame_indices(modality, 7, None)
            array = samples[modality.name]
            array = array if indices is None else array[np.arange(7)[:, None], indices]
            shown[modality.name] = views.show(torch.from_numpy(array), modality, None)
    present = torch.tensor([[name in subset for name in NAMES]]).expand(7, -1)
    zeros = torch.zeros(7, dtype=torch.int64)
    decision = Decisions.from_notes({**saved.NOTES, "decisions": DECISIONS}, NAMES).of(subset)
    with torch.no_grad():
        output = predictor.model(Batch(shown, zeros, present, True, zeros))
        logits = (
            scores(predictor.model, output, present, decision.votes).double().numpy()
            / decision.temperature
        )
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_probabilities_are_those_of_the_subsets_decision(
    predictor: Predictor, samples: dict[str, np.ndarray], subset: tuple[str, ...]
) -> None:
    found = predictor.predict_proba({name: samples[name] for name in subset})
    assert (found.shape, found.dtype) == ((7, 2), np.float32)
    np.testing.assert_allclose(found, expected(predictor, samples, subset), atol=1e-6)
    assert np.array_equal(
        predictor.predict({name: samples[name] for name in subset}), found.argmax(axis=1)
    )


def test_samples_of_one_call_may_lack_different_modalities(
    predictor: Predictor, samples: dict[str, np.ndarray]
) -> None:
    """Each row is what its own subset gives, and what stands where a modality is absent does not
    matter.
    """
    masks = {
        "audio": [1, 1, 0, 1, 0, 1, 1],
        "visual": [1, 0, 1, 1, 0, 0, 1],
        "motion": [1, 0, 0, 1, 1, 1, 0],
    }
    present = {name: np.array(mask, dtype=bool) for name, mask in masks.items()}
    samples["motion"][~present["motion"]] = np.nan
    samples["visual"][~present["visual"]] = 255
    found = predictor.predict_proba(samples, present)
    for row in range(7):
        subset = tuple(name for name in NAMES if present[name][row])
        np.testing.assert_allclose(found[row], expected(predictor, samples, subset)[row], atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_change_nothing(
    predictor: Predictor, samples: dict[str, np.ndarray], batch_size: int
) -> None:
    present = {"audio": np.arange(7) % 3 > 0}
    whole = predictor.predict_proba(samples, present)
    np.testing.assert_allclose(
        predictor.predict_proba(samples, present, batch_size), whole, atol=1e-6
    )


def test_tensors_are_as_good_as_arrays(
    predictor: Predictor, samples: dict[str, np.ndarray]
) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in samples.items()}
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    assert np.array_equal(predictor.predict_proba(tensors), predictor.predict_proba(samples))
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())


def test_tokens_of_the_caller_stay_as_they_were(tmp_path: Path) -> None:
    """int64 tokens are shown in the caller's own memory.

    The rows of absent samples must not be emptied there.
    """
    predictor = Predictor.load(
        saved.save(tmp_path / "model.safetensors", (LONG_TOKENS, kinds.SERIES)), "cpu"
    )
    tokens = torch.ones(4, *kinds.TOKENS.shape, dtype=torch.int64)
    inputs = {"text": tokens, "motion": torch.ones(4, *kinds.SERIES.shape)}
    some = predictor.predict_proba(inputs, {"text": np.array([True, False, True, False])})
    assert bool((tokens == 1).all())
    np.testing.assert_allclose(
        some[1], predictor.predict_proba({"motion": inputs["motion"]})[1], atol=1e-6
    )


@pytest.mark.parametrize("subset", [("audio",), ("visual", "motion")], ids="+".join)
def test_only_the_wanted_branches_are_loaded(
    path: Path, predictor: Predictor, samples: dict[str, np.ndarray], subset: tuple[str, ...]
) -> None:
    part = Predictor.load(path.parent, "cpu", list(subset))
    assert part.modalities == part.model.owned == subset
    chosen = {name: samples[name] for name in subset}
    assert np.array_equal(part.predict_proba(chosen), predictor.predict_proba(chosen))
    with pytest.raises(InputError, match="the model has"):
        part.predict(samples)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "no modality is given"),
        ({"smell": np.zeros((7, 1))}, r"modality 'smell': the model has \['audio', 'visual', 'motion'\]"),
        ({"motion": np.zeros((6, 50), np.float32)}, r"shape \[6, 50\], must be \[samples, 6, 50\]; one sample needs"),
        ({"motion": np.zeros((7, 6, 49), np.float32)}, r"shape \[7, 6, 49\], must be \[samples, 6, 50\]"),
        ({"motion": np.zeros((7, 6, 50))}, "float64, must be float32"),
        ({"motion": [[0.0]]}, r"'motion'\]: a list, must be a NumPy .*torch tensor, \[samples, 6, 50\] of float32"),
        ({"motion": np.zeros((0, 6, 50), np.float32)}, "no samples"),
        ({"motion": np.full((7, 6, 50), np.inf, np.float32)}, "sample 0 holds NaN or infinity"),
        ({"audio": np.zeros((6, 1, 33, 40), np.float16), "motion": np.zeros((7, 6, 50), np.float32)},
         "motion has 7 samples, 'audio' has 6"),
    ],
    ids=["none", "unknown", "no batch axis", "shape", "dtype", "list", "empty", "infinite", "lengths"],
)  # fmt: skip
def test_wrong_inputs_say_what_is_wrong(
    predictor: Predictor, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        predictor.predict_proba(change)


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ({"audio": np.ones(6, bool)}, r"present\['audio'\] has 6 samples"),
        ({"audio": np.ones(7)}, r"present\['audio'\]: float64 \[7\], must be booleans"),
        ({"motion": np.ones(7, bool)}, r"present: 'motion' is not among the inputs, \['audio'\]"),
        ({"audio": np.arange(7) != 4}, r"sample 4 has none of \['audio'\]"),
    ],
    ids=["length", "dtype", "not given", "nothing left"],
)
def test_wrong_masks_say_what_is_wrong(
    predictor: Predictor, samples: dict[str, np.ndarray], present: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        predictor.predict_proba({"audio": samples["audio"]}, present)


def test_a_batch_size_of_nothing_is_refused(
    predictor: Predictor, samples: dict[str, np.ndarray]
) -> None:
    with pytest.raises(InputError, match="batch_size = 0"):
        predictor.predict(samples, batch_size=0)


def test_paths_that_are_no_models(path: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"model\.safetensors: not found; give a run directory"
    ):
        Predictor.load(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"asked for modality 'smell', the model has \['audio', 'visual'"
    ):
        Predictor.load(path, modalities=["audio", "smell"])
    with pytest.raises(
        CheckpointError, match=r"asked for no modality; ask for one or more of \['audio', 'visual'"
    ):
        Predictor.load(path, modalities=[])
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="not a model written by this project"):
        Predictor.load(tmp_path)


def test_a_prepared_directory_is_predicted_in_its_order(
    predictor: Predictor, tmp_path: Path
) -> None:
    directory = kinds.prepare(
        tmp_path / "data", *INPUTS, count=20, absent={1: "audio", 4: "motion"}
    )
    found = list(predictions(predictor, prepared_chunks(predictor, directory, "test")))
    assert [each.sample for each in found] == [f"test/{row}" for row in range(10)]
    assert [each.modalities for each in found[:5]] == [
        NAMES, ("visual", "motion"), NAMES, NAMES, ("audio", "visual"),
    ]  # fmt: skip
    assert [each.label for each in found] == ["no", "yes"] * 5
    stored = {name: np.load(directory / "test" / f"{name}.npy") for name in NAMES}
    masks = {"audio": np.arange(10) != 1, "motion": np.arange(10) != 4}
    chances = predictor.predict_proba(stored, masks)
    assert [each.predicted for each in found] == [
        saved.CLASSES[index] for index in chances.argmax(axis=1)
    ]
    assert accuracy(found) == np.mean(chances.argmax(axis=1) == np.arange(10) % 2)
    assert [each.calibrated for each in found[:2]] == [False, False]


def test_data_of_another_kind_are_refused(predictor: Predictor, tmp_path: Path) -> None:
    other = kinds.prepare(tmp_path / "other", kinds.TOKENS)
    with pytest.raises(InputError, match=r"stores \['text'\], the model takes"):
        list(prepared_chunks(predictor, other, "test"))
    longer = kinds.prepare(tmp_path / "longer", replace(kinds.SERIES, shape=(6, 51)))
    with pytest.raises(
        InputError,
        match=r"'motion' is series \[6, 51\] of float32, the model takes series \[6, 50\]",
    ):
        list(prepared_chunks(predictor, longer, "test"))


def test_a_prediction_in_words() -> None:
    sure = Prediction("a.wav", ("audio",), {"yes": 0.93, "no": 0.07}, True)
    assert sure.line() == "yes (93.0%), then no (7.0%): a.wav [audio]"
    unsure = Prediction("a.wav", ("audio", "visual"), {"no": 0.5, "yes": 0.5}, False, "yes")
    assert unsure.line() == "no (50.0%, uncalibrated), then yes (50.0%): a.wav [audio+visual]"
    assert unsure.to_json() == {
        "sample": "a.wav", "modalities": ["audio", "visual"], "class": "no", "confidence": 0.5, "calibrated": False,
        "runner_up": "yes", "runner_up_confidence": 0.5, "probabilities": {"no": 0.5, "yes": 0.5}, "label": "yes",
    }  # fmt: skip


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_predicts_the_same(
    path: Path, predictor: Predictor, samples: dict[str, np.ndarray]
) -> None:
    there = Predictor.load(path, "cuda").predict_proba(samples)
    np.testing.assert_allclose(there, predictor.predict_proba(samples), atol=1e-3)
