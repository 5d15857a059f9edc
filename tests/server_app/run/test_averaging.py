"""FedCMI+'s moving average of the global weights, and the votes of the self heads when a class is
predicted.
"""

from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from safetensors.numpy import load_file

from client_app.app import app as client_app
from fedcmi_flwr.aggregation.mean import moving_average
from fedcmi_flwr.evaluation.counts import evaluate
from fedcmi_flwr.models.file import load_model
from fedcmi_flwr.types import Votes
from server_app.launch.start import resolve, run_in_process
from server_app.run.directory import read_metrics


def _run(directory: Path, data: Path, rounds: int, averaging: float) -> Path:
    options = {
        "data": str(data),
        "num-server-rounds": rounds,
        "local-epochs": 1,
        "method": "fedavg",
    }
    raw = resolve(None, {**options, "averaging": averaging}, [f"run-dir={directory}"])
    return run_in_process(raw, 4, client_app, lambda line: None)


def test_moving_average_by_hand() -> None:
    """0.75 * 4 + 0.25 * 8 = 5; counters are taken as they are.

    The first average is the first model.
    """
    old = {"w": np.array([4.0], np.float32), "steps": np.array(3)}
    new = {"w": np.array([8.0], np.float32), "steps": np.array(5)}
    found = moving_average(old, new, 0.75)
    assert (found["w"].tolist(), found["w"].dtype, found["steps"].tolist()) == (
        [5.0],
        np.float32,
        5,
    )
    assert moving_average(None, new, 0.75) is new
    assert moving_average(old, new, 0.0) is new


def test_the_average_is_saved_and_training_goes_on_from_the_weights(
    tmp_path: Path, av_digits_dir: Path
) -> None:
    one, two = (_run(tmp_path / str(rounds), av_digits_dir, rounds, 0.0) for rounds in (1, 2))
    averaged = _run(tmp_path / "averaged", av_digits_dir, 2, 0.75)
    losses = [[record["losses"] for record in read_metrics(path)] for path in (two, averaged)]
    assert losses[0] == losses[1]
    first, second, found = (load_file(path / "model.safetensors") for path in (one, two, averaged))
    for name, value in found.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(
                value, 0.75 * first[name] + 0.25 * second[name], rtol=1e-5, atol=1e-7
            )
        else:
            assert value == second[name]


def test_votes_multiply_the_experts() -> None:
    """The counts are those of ln F + 2 sum ln H_m(u_m) + 0.5 sum ln H_m(q_m) over present
    modalities, by sample.
    """
    model = oracle.model().eval()
    batch = oracle.batch([[1, 1], [1, 0], [0, 1]] * 40)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)  # so that an untrained model does not predict one class for all
        output = model(batch)
    heads = [
        (output.self_logits[name].numpy(), output.infiltration_logits[name].numpy())
        for name in model.spec.modalities
    ]
    right = np.zeros(3, dtype=int)
    for i, label in enumerate(batch.labels.tolist()):
        total = np.log(oracle.softmax(output.fused_logits[i].numpy()))
        for (own, infiltration), present in zip(heads, batch.present[i].tolist(), strict=True):
            total = total + 2 * present * np.log(oracle.softmax(own[i]))
            total = total + 0.5 * present * np.log(oracle.softmax(infiltration[i]))
        right[label] += total.argmax() == label
    voted, alone = (evaluate(model, [batch], votes) for votes in (Votes(2.0, 0.5), Votes()))
    assert voted["fused"].correct.tolist() == right.tolist()
    assert voted["fused"].correct.tolist() != alone["fused"].correct.tolist()
    assert voted["audio head"].correct.tolist() == alone["audio head"].correct.tolist()


@pytest.mark.parametrize(
    ("method", "key", "votes"),
    [
        ("fedcmi-plus", "averaging", (0.5, 0.0)),
        ("fedcmi-plus", "self-head-votes", (0.25, 0.0)),
        ("fedcmi", "infiltration-votes", (0.0, 0.25)),
    ],
)
def test_the_checkpoint_says_how_to_predict(
    tmp_path: Path, av_digits_dir: Path, method: str, key: str, votes: tuple[float, float]
) -> None:
    options = {
        "method": method,
        "data": str(av_digits_dir),
        "num-server-rounds": 1,
        "local-epochs": 1,
    }
    raw = resolve(None, options, [f"{key}=0.25"])
    raw["run-dir"] = str(tmp_path / "run")
    run_in_process(raw, 4, client_app, lambda line: None)
    notes = load_model(tmp_path / "run" / "model.safetensors")[1]["notes"]
    assert (notes["self-head-votes"], notes["infiltration-votes"]) == votes
    assert notes["run-config"][key] == 0.25
