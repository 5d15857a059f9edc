"""What a teacher makes of samples that never change is computed once a round, and nothing else
changes by it.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from federated import federate

from client_app.train import Received, begin_round, step, train
from fedcmi_flwr.client import LocalObjective
from fedcmi_flwr.client.sgd import SGD
from fedcmi_flwr.config.sections import TrainingConfig
from fedcmi_flwr.data import views
from fedcmi_flwr.data.samples import Samples
from fedcmi_flwr.data.schema import ModalitySpec
from fedcmi_flwr.data.views import Views
from fedcmi_flwr.evaluation.counts import measure
from fedcmi_flwr.methods import CrossModalInfiltration, LocalRound
from fedcmi_flwr.models.encoders import SmallCNN

TWO = ("audio", "visual")
SETTINGS = TrainingConfig(
    seed=3, num_server_rounds=4, local_epochs=3, batch_size=4, lr=0.05, lr_min=0.0, lr_decay_start=-1,
    momentum=0.9, weight_decay=1e-3,
)  # fmt: skip
TOLD = Received(oracle.decision("audio", visual=[0.5, 1.0, 0.7]))
TEACHING = CrossModalInfiltration(
    gamma=1.0, lambda_=1.0, mu=0.1, surrogate=1.0, kd_temperature_scaling=True
)


def _samples(count: int = 13, absent: bool = False) -> Samples:
    samples = oracle.samples(count)
    if absent:
        samples.has[2, 0] = samples.has[7, 1] = samples.has[8, 0] = False
    return samples


def _forget(patch: pytest.MonkeyPatch) -> None:
    """Let the teacher look at every batch of every epoch."""
    patch.setattr(Views, "repeat", lambda *_: False)


@pytest.mark.parametrize("normalization", ["batch", "group"])
@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("dominance", ["global", "client", "batch"])
def test_training_gives_the_bits_that_it_gives_without_memory(
    dominance: str, absent: bool, normalization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass before training has batches of six, six and one sample, training random ones of four
    or five.
    """
    monkeypatch.setattr(views, "EVALUATION_BATCH", 6)
    method, trained = replace(TEACHING, dominance=dominance), []
    for forgets in (False, True):
        model = oracle.model(normalization=normalization).float()
        with pytest.MonkeyPatch.context() as patch:
            if forgets:
                _forget(patch)
            train(model, _samples(absent=absent), method, SETTINGS, 2, 0, TOLD)
        trained.append(model.state_dict())
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[1])


def test_a_federation_comes_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = oracle.prepare(tmp_path / "toy", {name: np.ones(40, dtype=bool) for name in TWO})
    found = []
    for name in ("remembers", "forgets"):
        run = federate(
            tmp_path / name,
            data,
            ("audio+visual", "audio+visual"),
            method="fedcmi-plus",
            local_epochs=2,
        )
        for server_round in (1, 2):
            weights = run.round(server_round)
        found.append(weights)
        _forget(monkeypatch)
    assert all(np.array_equal(found[0][key], found[1][key]) for key in found[1])


def _steps(local: LocalRound, samples: Samples, model: torch.nn.Module) -> None:
    optimizer = SGD(model.parameters(), lr=0.0)
    objective = LocalObjective(model, TEACHING, local, "fedcmi")
    for batch in samples.batches(4, TWO):
        step(model, batch, objective, optimizer)


@pytest.mark.parametrize(
    ("augmented", "calls"),
    [((), 0), (("visual",), 0), (("audio",), 3)],
    ids=["none", "the weak one", "the dominant"],
)
def test_the_teacher_looks_again_only_at_what_changes(
    augmented: tuple[str, ...], calls: int
) -> None:
    model, samples = oracle.model().float(), replace(_samples(12), views=Views(augmented))
    local = begin_round(model, samples, TEACHING, SETTINGS, 2, 0, TOLD)
    seen: list[int] = []
    local.teachers["audio"].encoder.trunk.register_forward_hook(lambda *_: seen.append(1))
    _steps(local, samples, model)
    assert len(seen) == calls


def test_views_repeat_unless_something_is_drawn() -> None:
    clip, image = (
        ModalitySpec("m", kind, (5, 3, 8, 8)[-n:], "uint8")
        for kind, n in (("frames", 4), ("image", 3))
    )
    assert Views(size=4).repeat(clip)
    assert not Views(frames=2).repeat(clip)
    assert Views(frames=2).repeat(image)
    assert not Views(("m",)).repeat(image)
    assert Views(("other",)).repeat(image)


def test_features_are_by_place_and_zeros_where_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A single sample at the end has the features that it has in a larger batch."""
    monkeypatch.setattr(views, "EVALUATION_BATCH", 6)
    model, samples = oracle.model().float().eval(), _samples(absent=True)
    found = measure(model, samples.evaluation_batches(TWO)).features
    whole = next(samples.batches(13, TWO))
    for column, name in enumerate(TWO):
        encoder = model.branch(name).encoder
        assert isinstance(encoder, SmallCNN)
        expected = encoder.features(whole.inputs[name]).detach() * whole.present[
            :, column
        ].unsqueeze(1)
        assert torch.equal(found[name], expected)
    shuffled = next(samples.training_batches(13, TWO, torch.Generator().manual_seed(1)))
    assert torch.equal(shuffled.labels, whole.labels[shuffled.indices])
    assert torch.equal(shuffled.inputs["audio"], whole.inputs["audio"][shuffled.indices])
