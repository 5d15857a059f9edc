"""Export: graphs compute what the model does, without torch, and nothing is left of one that does
not.
"""

import hashlib
import json
import subprocess
import sys
import warnings
from pathlib import Path

import kinds
import numpy as np
import pytest
import saved
import torch

from fedcmi_flwr.data.views import Views
from fedcmi_flwr.inference import export, graph
from fedcmi_flwr.inference.export import ExportError, export_model, random_samples
from fedcmi_flwr.inference.predictor import Predictor

ALL = (kinds.SPECTROGRAM, kinds.FRAMES, kinds.IMAGE, kinds.TOKENS, kinds.SERIES, kinds.VECTOR)
NAMES = tuple(modality.name for modality in ALL)
DECISIONS = {"+".join(NAMES): {"fusion": 1.0, "self-heads": 0.5, "infiltration-heads": 0.0, "temperature": 2.0,
                        "calibrated": True}}  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model with every encoder that there is, and views that are scaled and leave frames
    out.
    """
    notes = {"decisions": DECISIONS, "run-config": {"view-size": 34, "view-frames": 3}}
    return saved.save(tmp_path_factory.mktemp("run") / "model.safetensors", ALL, notes)


def draw(predictor: Predictor, names: tuple[str, ...], count: int) -> dict[str, np.ndarray]:
    return {
        name: random_samples(predictor.input(name), predictor, count, 7).numpy() for name in names
    }


WITHOUT_TORCH = """
import json, sys
import numpy, onnxruntime
directory, subset = sys.argv[1:]
session = onnxruntime.InferenceSession(f"{directory}/{subset}.onnx", providers=["CPUExecutionProvider"])
samples = dict(numpy.load(f"{directory}/samples.npz"))
for count in (0, 1, 2, 4):
    some = {name: array[:count] for name, array in samples.items()}
    probabilities, scores = session.run(["probabilities", "scores"], some)
    assert probabilities.shape == scores.shape == (count, 2)
numpy.save(f"{directory}/found.npy", probabilities)
print(json.dumps(session.get_modelmeta().custom_metadata_map))
assert not [name for name in sys.modules if name == "torch" or name.startswith("fedcmi")]
"""


def test_an_onnx_file_is_run_without_torch(path: Path, tmp_path: Path) -> None:
    """All encoders in one calibrated graph.

    Batches of other sizes than the one that it was traced with.
    """
    out, names = tmp_path / "graphs", NAMES
    graph, description = export_model(path, out, "onnx", [names])
    assert (graph.name, description.name) == (f"{'+'.join(names)}.onnx", "export.json")
    predictor = Predictor.load(path, "cpu")
    samples = draw(predictor, names, 4)
    np.savez(out / "samples.npz", **samples)
    command = [sys.executable, "-c", WITHOUT_TORCH, str(out), "+".join(names)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    np.testing.assert_allclose(
        np.load(out / "found.npy"), predictor.predict_proba(samples), atol=1e-4
    )
    about = {key: json.loads(value) for key, value in json.loads(result.stdout).items()}
    assert about["classes"] == ["no", "yes"]
    assert (about["calibrated"], about["temperature"], about["rule"]) == (True, 2.0, "combined")
    described = [(each["name"], each["shape"], each["dtype"]) for each in about["inputs"]]
    assert described == [(m.name, list(m.shape), m.dtype) for m in ALL]
    said = json.loads(description.read_text())
    assert said["classes"] == ["no", "yes"]
    assert (said["model"], said["model-sha256"]) == (
        path.name,
        hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    assert said["graphs"][0].items() >= {"file": graph.name, "modalities": list(names)}.items()
    assert said["graphs"][0]["largest_difference"] < 1e-4
    assert said["graphs"][0]["fewest_samples"] == 0


def test_torch_programs_are_loaded_again(path: Path, tmp_path: Path) -> None:
    graph, _ = export_model(path, tmp_path / "graphs", "torch", [NAMES])
    predictor = Predictor.load(path, "cpu")
    samples = draw(predictor, NAMES, 2)
    with (
        torch.inference_mode(),
        warnings.catch_warnings(action="ignore"),
    ):
        # Of torch's own way to read
        program = torch.export.load(graph).module()
        probabilities, _ = program(*(torch.from_numpy(samples[name]) for name in NAMES))
    np.testing.assert_allclose(probabilities.numpy(), predictor.predict_proba(samples), atol=1e-5)


RECIPES = {"motion": {"maker": "series", "channels": 6, "points": 50}}


def test_every_subset_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subsets are written one by one, smaller ones first, with the modalities in the
    model's order.
    """
    model = saved.save(
        tmp_path / "model.safetensors", [kinds.SPECTROGRAM, kinds.SERIES], {"recipes": RECIPES}
    )
    monkeypatch.setattr(
        export, "_export_subset", lambda predictor, subset, kind, where: {"file": "+".join(subset)}
    )
    found = [file.name for file in export_model(model, tmp_path / "all", "torch")]
    assert found == ["audio", "motion", "audio+motion", "export.json"]
    assert json.loads((tmp_path / "all" / "export.json").read_text())["recipes"] == RECIPES
    (tmp_path / "MODEL_CARD.md").write_text("what it is for")
    chosen = export_model(model, tmp_path / "chosen", "torch", [("motion", "audio")])
    assert [file.name for file in chosen] == ["audio+motion", "export.json"]
    assert (tmp_path / "chosen" / "MODEL_CARD.md").read_text() == "what it is for"
    assert not (tmp_path / "all" / "MODEL_CARD.md").exists()


@pytest.mark.parametrize("modality", ALL, ids=lambda modality: modality.name)
@pytest.mark.parametrize(
    "views", [Views(), Views(size=34, frames=3), Views(size=48)], ids=["stored", "less", "more"]
)
def test_graphs_show_what_evaluations_show(
    path: Path, modality: kinds.ModalitySpec, views: Views
) -> None:
    predictor = Predictor.load(path, "cpu", [modality.name])
    stored = random_samples(modality, predictor, 3, 0)
    indices = views.frame_indices(modality, 3, None)
    chosen = stored if indices is None else stored[:, torch.from_numpy(indices[0])]
    expected = views.show(chosen, modality, None)
    torch.testing.assert_close(graph.show(views, stored, modality), expected, atol=1e-5, rtol=0)


def test_a_graph_that_differs_leaves_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is normalised otherwise than the model's samples are."""
    true_show = graph.show
    monkeypatch.setattr(
        graph, "show", lambda views, stored, spec: 1.1 * true_show(views, stored, spec)
    )
    with pytest.raises(
        ExportError, match=r"motion\.pt2: differs from the model by .* 0\.0001 allowed"
    ):
        export_model(path, tmp_path / "graphs", "torch", [("motion",)])
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_says_so(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.setattr(torch.export, "export", refuse)
    with pytest.raises(
        ExportError, match=r"motion: {'motion': 'cnn-1d'} cannot be exported to torch: no such op"
    ):
        export_model(path, tmp_path / "graphs", "torch", [("motion",)])
    assert not list(tmp_path.iterdir())


def test_wrong_wishes(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"modalities \['smell'\]"):
        export_model(path, tmp_path / "graphs", "onnx", [("smell",)])
    with pytest.raises(FileExistsError, match="is there already"):
        export_model(path, tmp_path, "onnx")
    monkeypatch.setattr(export, "PACKAGES", ("no_such_package",))
    with pytest.raises(
        ModuleNotFoundError, match=r"package no_such_package .*pip install 'fedcmi-flwr\[export\]'"
    ):
        export_model(path, tmp_path / "graphs", "onnx")
    with pytest.raises(ValueError, match="format 'paper'"):
        export_model(path, tmp_path / "graphs", "paper")


def test_tokens_are_of_the_models_words(path: Path) -> None:
    predictor = Predictor.load(path, "cpu", ["text"])
    tokens = random_samples(kinds.TOKENS, predictor, 50, 0)
    assert tokens.dtype == torch.int32
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < kinds.TINY["bert"]["vocab_size"]
