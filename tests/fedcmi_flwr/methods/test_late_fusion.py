"""Late fusion: unimodal federations side by side, and the sum of their log-probabilities."""

from pathlib import Path

import numpy as np
import oracle
import pytest
from federated import federate

from fedcmi_flwr.client.memory import read_memory
from fedcmi_flwr.evaluation.counts import evaluate
from fedcmi_flwr.methods import METHODS

TWO = ("audio", "visual")


@pytest.mark.parametrize("nodes", [("audio+visual",) * 3, ("audio+visual", "audio", "visual")])
def test_it_is_as_many_unimodal_federations_to_a_bit(
    tmp_path: Path, toy: Path, nodes: tuple[str, ...]
) -> None:
    """Each modality alone, from the same weights, among the nodes that own it.

    They share no parameter.
    """
    both = federate(tmp_path / "both", toy, nodes, method="late-fusion")
    start = both.arrays
    assert {name.split(".")[0] for name in start} == {"branches"}
    for server_round in (1, 2):
        both.round(server_round)
        assert both.strategy.report.refused == []
        assert set(both.strategy.report.owners) == set(TWO)
    for name in TWO:
        own = {key: value for key, value in start.items() if key.startswith(f"branches.{name}.")}
        alone = federate(tmp_path / name, toy, nodes, own, method="late-fusion", modalities=name)
        for server_round in (1, 2):
            alone.round(server_round)
        assert set(alone.arrays) == set(own)
        assert all(np.array_equal(alone.arrays[key], both.arrays[key]) for key in own)
        assert not all(np.array_equal(alone.arrays[key], own[key]) for key in own)


def test_no_shared_group_travels(tmp_path: Path, toy: Path) -> None:
    run = federate(tmp_path, toy, ("audio+visual", "audio"), method="late-fusion")
    run.round(1)
    assert [set(reply.content["layout"]) for reply in run.replies] == [
        {"audio", "visual"},
        {"audio"},
    ]
    assert not any(read_memory(context) for context in run.grid.contexts.values())


@pytest.mark.parametrize(
    "present", [[[1, 1]] * 6, [[1, 1], [1, 0], [0, 1], [1, 1], [1, 0], [0, 1]]]
)
def test_loss_and_prediction_are_the_oracles(present: list[list[int]]) -> None:
    """The sum of the modalities' cross-entropies.

    The class of the largest summed log-probability.
    """
    model, batch = oracle.model(structure="unimodal").eval(), oracle.batch(present)
    labels, has, output = batch.labels.numpy(), batch.present.numpy(), model(batch)
    logits = {name: value.detach().numpy() for name, value in output.self_logits.items()}
    terms = METHODS["late-fusion"].loss_terms(model, batch, output, oracle.local_round(model))
    expected = sum(
        oracle.cross_entropy(logits[name], labels, has[:, m]) for m, name in enumerate(TWO)
    )
    assert terms.total().item() == pytest.approx(expected)
    right = np.zeros(3, dtype=int)
    for i, y in enumerate(labels):
        votes = sum(
            np.log(oracle.softmax(logits[name][i])) for m, name in enumerate(TWO) if has[i, m]
        )
        right[y] += int(np.argmax(votes) == y)
    counts = evaluate(model, [batch])
    assert counts["fused"].correct.tolist() == right.tolist()
    assert counts["audio only"].correct.tolist() == counts["audio head"].correct.tolist()
