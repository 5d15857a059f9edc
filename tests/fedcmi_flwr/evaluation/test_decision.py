"""Rules and decisions.

Scores against the oracle's loop, subsets, and what a model file keeps of them.
"""

import json

import numpy as np
import oracle
import pytest
import torch

from fedcmi_flwr.evaluation.decision import Decision, Decisions, rules, scores, subsets
from fedcmi_flwr.models.multimodal import mask_for
from fedcmi_flwr.types import Votes

THREE = ("audio", "visual", "touch")
NOTES = {"self-head-votes": 1.0, "infiltration-votes": 0.5}


@pytest.mark.parametrize("rule", ["fused", "self-heads", "combined"])
@pytest.mark.parametrize("subset", [("audio",), ("audio", "touch"), THREE])
def test_scores_are_the_oracles(rule: str, subset: tuple[str, ...]) -> None:
    """By sample: ln F over slots filled by the subset's q, and the heads of the subset, as the rule
    says.
    """
    model, batch = oracle.model(THREE).eval(), oracle.batch([[1, 1, 1]] * 8, range(3))
    output = model(batch)
    mask, _ = mask_for(subset, THREE, batch.present)
    votes = rules(model.spec, Votes(2.0, 0.5))[rule]
    found = scores(model, output, mask, votes)
    has = np.array([[name in subset for name in THREE]])
    for i in range(8):
        u, q = (
            np.stack([part[name][i].detach().numpy() for name in THREE])[None]
            for part in (output.self_embeddings, output.infiltration_embeddings)
        )
        fused = model.fusion(torch.from_numpy(oracle.fill(u, q, has)))[0].detach().numpy()
        heads = [
            np.log(oracle.softmax(output.self_logits[name][i].detach().numpy())) for name in subset
        ]
        doubts = [
            np.log(oracle.softmax(output.infiltration_logits[name][i].detach().numpy()))
            for name in subset
        ]
        expected = {
            "fused": np.log(oracle.softmax(fused)),
            "self-heads": sum(heads),
            "combined": np.log(oracle.softmax(fused)) + 2 * sum(heads) + 0.5 * sum(doubts),
        }
        assert found[i].detach().numpy() == pytest.approx(expected[rule])


@pytest.mark.parametrize("structure", ["fusion", "unimodal"])
def test_a_model_whose_fusion_is_all_it_has_offers_no_other_rule(structure: str) -> None:
    assert rules(oracle.model(structure=structure).spec, Votes()) == {"fused": Votes()}


def test_without_votes_of_its_own_a_method_combines_fusion_and_self_heads() -> None:
    assert rules(oracle.model().spec, Votes())["combined"] == Votes(self_heads=1.0)


def test_what_is_looked_at_of_a_subset() -> None:
    present = torch.tensor(
        [[True, True, True], [True, False, True], [True, False, False], [False, True, False]]
    )
    mask, rows = mask_for(("audio", "touch"), THREE, present)
    assert mask.tolist() == [
        [True, False, True],
        [True, False, True],
        [True, False, False],
        [False, False, False],
    ]
    assert rows.tolist() == [True, True, False, False]


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (2, 3), (5, 31), (6, 13), (8, 17)])
def test_number_of_subsets(count: int, expected: int) -> None:
    """2^M - 1; of more than five modalities M alone, M without one, and all."""
    found = subsets([f"m{i}" for i in range(count)])
    assert len(set(found)) == len(found) == expected
    assert [len(subset) for subset in found] == sorted(len(subset) for subset in found)


def test_a_temperature_divides_the_scores() -> None:
    """softmax([0, ln 9] / 2) = [1/4, 3/4]."""
    decision = Decision(Votes(), 2.0, calibrated=True)
    found = decision.log_probabilities(torch.tensor([[0.0, 9.0]]).log().clamp(min=0.0))
    assert found.exp().tolist() == [pytest.approx([0.25, 0.75])]


def test_each_sample_is_decided_by_what_it_has() -> None:
    model, pattern = oracle.model().eval(), [[1, 1], [1, 0], [0, 1], [1, 1]]
    batch = oracle.batch(pattern)
    output = model(batch)
    alone = Decision(Votes(self_heads=1.0, fusion=0.0), 0.5, calibrated=True)
    decisions = Decisions(
        ("audio", "visual"), Decision(Votes(), 1.0, calibrated=False), {("audio",): alone}
    )
    found = decisions.log_probabilities(model, output, batch.present)
    by_default = output.fused_logits.log_softmax(dim=1)
    by_audio = (2 * output.self_logits["audio"].log_softmax(dim=1)).log_softmax(dim=1)
    for i, expected in enumerate((by_default, by_audio, by_default, by_default)):
        assert torch.allclose(found[i], expected[i])
    with pytest.raises(
        ValueError, match=r"modalities \[\]: need one or more of \['audio', 'visual'\]"
    ):
        decisions.log_probabilities(
            model, output, batch.present & (batch.indices != 1).unsqueeze(1)
        )


@pytest.mark.parametrize("subset", [(), ("audio", "audio"), ("smell",)])
def test_what_is_no_subset_is_refused(subset: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="need one or more of"):
        Decisions(THREE, Decision(Votes(), 1.0, calibrated=False)).of(subset)


def test_a_model_file_keeps_the_decisions() -> None:
    chosen = {
        ("audio",): Decision(Votes(self_heads=1.0, fusion=0.0), 1.25, calibrated=True),
        ("audio", "touch"): Decision(Votes(1.0, 0.5), 0.7, calibrated=True),
        THREE: Decision(Votes(), 2.0, calibrated=True),
    }
    written = Decisions(THREE, Decision(Votes(1.0, 0.5), 1.0, calibrated=False), chosen)
    read = Decisions.from_notes(
        json.loads(json.dumps({**NOTES, "decisions": written.to_json()})), THREE
    )
    assert read == written
    assert [decision["rule"] for decision in written.to_json().values()] == [
        "self-heads",
        "combined",
        "fused",
    ]
    assert read.of(("touch", "audio")) == chosen["audio", "touch"]
    assert read.of(("visual",)) == read.default == Decision(Votes(1.0, 0.5), 1.0, calibrated=False)


def test_a_model_file_without_decisions_goes_by_the_methods_votes() -> None:
    assert Decisions.from_notes(NOTES, THREE).of(THREE) == Decision(
        Votes(1.0, 0.5), 1.0, calibrated=False
    )


GOOD = {
    "fusion": 1.0,
    "self-heads": 0.0,
    "infiltration-heads": 0.0,
    "temperature": 1.0,
    "calibrated": True,
}


@pytest.mark.parametrize(
    "decisions",
    [
        {"smell": GOOD},
        {"audio": {}},
        {"audio": {**GOOD, "temperature": 0.0}},
        {"audio": {**GOOD, "temperature": float("nan")}},
        {"audio": {**GOOD, "fusion": "all"}},
        [],
        {"audio": 3},
    ],
    ids=range(7),
)
def test_notes_that_say_something_else_are_refused(decisions: object) -> None:
    with pytest.raises(ValueError, match="notes of the model: "):
        Decisions.from_notes({**NOTES, "decisions": decisions}, THREE)
