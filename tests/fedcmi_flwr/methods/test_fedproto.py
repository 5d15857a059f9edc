"""FedProto: sums and counts from nodes, prototypes on the server, and the pull towards them,
against NumPy.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from federated import Federated, federate, method_arrays, sends

from client_app.node import read_node
from client_app.samples import node_samples
from fedcmi_flwr.methods import METHODS, LocalSteps
from fedcmi_flwr.methods.fedproto import FedProto
from fedcmi_flwr.models.multimodal import MultimodalModel
from fedcmi_flwr.wire.tensors import to_state_dict

TWO = ("audio", "visual")
NODES = ("audio+visual", "audio", "visual")
NAN = np.full(4, np.nan)
STEPS = LocalSteps(1, 0.1, 0.0)


def _pull(z: np.ndarray, prototypes: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> float:
    """Return the mean of -ln(e^-||z - p_y|| / sum_c e^-||z - p_c||) over known classes c.

    0 without any row.
    """
    known, losses = [c for c in range(len(prototypes)) if not np.isnan(prototypes[c]).any()], []
    for x, y, row in zip(z, labels, rows, strict=True):
        if row and y in known:
            near = {c: np.exp(-np.sqrt(((x - prototypes[c]) ** 2).sum())) for c in known}
            losses.append(-np.log(near[y] / sum(near.values())))
    return float(np.mean(losses)) if losses else 0.0


def _prototypes(seed: int, known: tuple[int, ...]) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(3, 4))
    return np.array([values[c] if c in known else NAN for c in range(3)])


@pytest.mark.parametrize("known", [(0, 1, 2), (0, 2), (1,), ()])
@pytest.mark.parametrize(
    "present", [[[1, 1]] * 5, [[1, 1], [1, 0], [0, 1], [1, 1], [1, 1], [1, 0]]]
)
def test_the_term_is_the_oracles_and_classes_nobody_had_are_left_out(
    present: list[list[int]], known: tuple[int, ...]
) -> None:
    method, model, batch = (
        FedProto(weight=0.3),
        oracle.model(structure="fusion"),
        oracle.batch(present),
    )
    prototypes = {"audio": _prototypes(1, known), "visual": _prototypes(2, (0, 1, 2))}
    sent = {f"prototype.{name}": torch.from_numpy(value) for name, value in prototypes.items()}
    local = oracle.local_round(model, log_prior=torch.zeros(3).double())
    local = oracle.local_round(model, method_state=method.prepare(model, local, sent, {}))
    output = model(batch)
    terms = method.loss_terms(model, batch, output, local)
    expected = sum(
        _pull(
            output.self_embeddings[name].detach().numpy(),
            prototypes[name],
            batch.labels.numpy(),
            batch.present[:, m],
        )
        for m, name in enumerate(TWO)
    )
    assert terms.values["prototype"].item() == pytest.approx(expected)
    assert terms.total().item() == pytest.approx(terms.values["fused"].item() + 0.3 * expected)
    terms.total().backward()
    assert all(torch.isfinite(w.grad).all() for w in model.parameters())


def test_there_is_no_term_before_there_are_prototypes() -> None:
    model, batch = oracle.model(structure="fusion"), oracle.batch([[1, 1]] * 3)
    only_visual = {"prototype.visual": torch.from_numpy(_prototypes(1, (0, 1, 2)))}
    for sent, names in (({}, {"fused"}), (only_visual, {"fused", "prototype"})):
        local = oracle.local_round(model, log_prior=torch.zeros(3).double())
        local = oracle.local_round(model, method_state=FedProto().prepare(model, local, sent, {}))
        assert set(FedProto().loss_terms(model, batch, model(batch), local).values) == names


@pytest.mark.parametrize("training", [True, False])
def test_a_node_sends_sums_and_counts_of_the_samples_that_have_the_modality(training: bool) -> None:
    """In eval mode, over all its batches, and the model is left as it was."""
    model = oracle.model(structure="fusion")
    batches = [
        oracle.batch([[1, 1], [1, 0], [0, 1], [1, 1]], seed=1),
        oracle.batch([[1, 1], [1, 0]], seed=2),
    ]
    model(batches[0])  # so that the running statistics are not what they start from
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = FedProto().finish(
        model.train(training), oracle.local_round(model, batches=lambda: iter(batches)), STEPS
    )
    assert model.training == training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not kept.memory
    model.eval()
    for m, name in enumerate(TWO):
        sums, counts = np.zeros((3, 4)), np.zeros(3)
        for batch in batches:
            for i, y in enumerate(batch.labels.tolist()):
                if batch.present[i, m]:
                    sums[y] += (
                        model.branch(name)
                        .encoder(batch.inputs[name][i : i + 1])[0]
                        .detach()
                        .numpy()
                    )
                    counts[y] += 1
        assert kept.to_server[f"prototype-sum.{name}"].numpy() == pytest.approx(sums)
        assert kept.to_server[f"prototype-count.{name}"].tolist() == counts.tolist()
    assert set(kept.to_server) == {
        f"prototype-{part}.{name}" for part in ("sum", "count") for name in TWO
    }


def _reply(**of_modality: Mapping[int, list[list[float]]]) -> dict[str, np.ndarray]:
    """Return sums and counts of embeddings by class, two numbers an embedding."""
    arrays = {}
    for name, found in of_modality.items():
        total = np.array([np.sum(found.get(c, [[0, 0]]), axis=0) for c in range(3)], np.float32)
        arrays[f"prototype-sum.{name}"] = total
        arrays[f"prototype-count.{name}"] = np.array(
            [len(found.get(c, [])) for c in range(3)], np.float32
        )
    return arrays


def test_prototypes_are_means_over_all_nodes_samples_and_old_ones_stay() -> None:
    """Class 0 of audio on two nodes, with 3 samples and 1: their mean, not the mean of means.

    Nobody has class 2.
    """
    replies = [
        _reply(audio={0: [[1, 0], [2, 0], [3, 6]]}),
        _reply(audio={0: [[10, 2]], 1: [[5, 5]]}, visual={1: [[7, 7]]}),
    ]
    first = FedProto().combine({}, replies, {})
    assert first["prototype.audio"] == pytest.approx(
        np.array([[4, 2], [5, 5], NAN[:2]]), nan_ok=True
    )
    assert first["prototype.visual"] == pytest.approx(
        np.array([NAN[:2], [7, 7], NAN[:2]]), nan_ok=True
    )
    second = FedProto().combine(first, [_reply(audio={1: [[1, 1]], 2: [[9, 8]]})], {})
    assert second["prototype.audio"] == pytest.approx(np.array([[4, 2], [1, 1], [9, 8]]))
    assert second["prototype.visual"] == pytest.approx(first["prototype.visual"], nan_ok=True)
    assert {value.dtype for value in second.values()} == {np.dtype(np.float32)}
    assert FedProto().for_node(second, ["visual"], []) == {
        "prototype.visual": second["prototype.visual"]
    }


def _embeddings(
    run: Federated, partition: int, arrays: Mapping[str, np.ndarray]
) -> dict[str, tuple]:
    """Return modality -> (embedding of each of the node's samples, labels) under the node's trained
    weights.
    """
    samples = node_samples(read_node(run.grid.contexts[1001 + partition]), "train", TWO)
    owned = run.grid.contexts[1001 + partition].node_config["modalities"].split("+")
    model = MultimodalModel(
        run.federation.spec, [m for m in run.federation.data.modalities if m.name in owned]
    )
    model.load_state_dict(to_state_dict(arrays))
    batch = next(samples.batches(1000, TWO))
    with torch.no_grad():
        return {
            name: (model.eval().branch(name).encoder(batch.inputs[name]).numpy(), batch.labels)
            for name in owned
        }


def test_a_federation_of_nodes_with_different_classes(tmp_path: Path, toy: Path) -> None:
    """Over two rounds.

    The prototypes are means over the owners' trained models, and the nodes train towards them.
    """
    run = federate(
        tmp_path, toy, NODES, method="fedproto", partition="natural", num_server_rounds=2
    )
    for server_round in (1, 2):
        tasks = [message.content for message in run.messages(server_round, run.arrays)]
        assert ["method-arrays" in content for content in tasks] == [server_round == 2] * 3
        run.round(server_round)
        assert run.strategy.report.refused == []
        assert ("prototype" in run.strategy.report.losses) == (server_round == 2)
        found: dict[str, list] = {name: [] for name in TWO}
        for partition, reply in enumerate(run.replies):
            update = run.update(reply, partition)
            for name, pair in _embeddings(run, partition, update.arrays).items():
                found[name].append(pair)
        for name, pairs in found.items():
            z, labels = (np.concatenate(column) for column in zip(*pairs, strict=True))
            means = np.array([z[labels == c].mean(axis=0) for c in range(3)])
            assert run.strategy.method_state[f"prototype.{name}"] == pytest.approx(means, abs=1e-4)
    assert [set(method_arrays(m)) for m in run.messages(3, run.arrays)] == [
        {"prototype.audio", "prototype.visual"}, {"prototype.audio"}, {"prototype.visual"},
    ]  # fmt: skip


def test_a_weight_of_zero_is_fedavg(tmp_path: Path, toy: Path) -> None:
    zero = federate(tmp_path / "zero", toy, NODES, method="fedproto", weight=0.0)
    plain = federate(tmp_path / "fedavg", toy, NODES, method="fedavg")
    for server_round in (1, 2):
        left, right = zero.round(server_round), plain.round(server_round)
        assert all(np.array_equal(left[name], right[name]) for name in right)


SUM, COUNT = "prototype-sum.audio", "prototype-count.audio"
GOOD = np.zeros((3, 4), np.float32)


def _as_visual(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key.replace("audio", "visual"): value for key, value in arrays.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda a: {},
            r"arrays \[\]: need prototype-sum.<m> and prototype-count.<m> of each of \['audio'\]",
        ),
        (lambda a: {SUM: a[SUM]}, r"need prototype-sum"),
        (lambda a: {**a, "extra": a[SUM]}, r"'extra'.*need prototype-sum"),
        (
            lambda a: {key.replace("audio", "visual"): value for key, value in a.items()},
            r"of each of \['audio'\]",
        ),
        (
            lambda a: {**a, **{key.replace("audio", "visual"): value for key, value in a.items()}},
            r"each of \['audio'\]",
        ),
        (lambda a: {**a, SUM: a[SUM][:2]}, r"'audio': shapes \[2, 4\] and \[3\]"),
        (lambda a: {**a, SUM: a[SUM][0]}, r"'audio': shapes \[4\] and \[3\]"),
        (lambda a: {**a, COUNT: a[COUNT][:2]}, r"'audio': shapes \[3, 4\] and \[2\]"),
        (lambda a: {**a, COUNT: -a[COUNT]}, r"'audio': counts must be whole numbers from 0"),
        (lambda a: {**a, COUNT: a[COUNT] + 0.5}, r"'audio': counts must be whole numbers from 0"),
        (lambda a: {**a, COUNT: 0 * a[COUNT]}, r"'audio': a sum over no samples is not 0"),
        (lambda a: {**a, SUM: a[SUM] * np.float32(np.nan)}, rf"'{SUM}' holds NaN or Inf"),
        (lambda a: {**a, COUNT: a[COUNT] * np.float32(np.inf)}, rf"'{COUNT}' holds NaN or Inf"),
        (
            lambda a: {**a, SUM: a[SUM].astype(np.float64)},
            r"'audio': float64 and float32, need float32",
        ),
        (lambda a: {**a, COUNT: a[COUNT].astype("<U4")}, r"'audio': float32 and <U4, need float32"),
        (lambda a: {**a, SUM: np.ones((3, 5), np.float32)}, r"'audio': dim 5, but 4 elsewhere"),
        (lambda a: {**a, SUM: np.ones((3, 0), np.float32)}, r"'audio': dim 0, but 4 elsewhere"),
    ],
)
def test_a_malformed_reply_is_refused_and_the_others_are_used(
    tmp_path: Path, toy: Path, change: object, words: str
) -> None:
    """Node 2 owns audio; before there is a state, the size that most replies have counts."""
    run = federate(tmp_path, toy, ("audio+visual", "audio", "audio"), method="fedproto")
    run.round(1, sends(2, change))
    (line,) = run.strategy.report.refused
    assert "node 1003 (partition 2, audio)" in line
    assert re.search(words, line)
    assert run.strategy.report.owners["audio"] == [0, 1]
    assert all(np.isfinite(value).all() for value in run.strategy.method_state.values())


def test_a_refused_node_may_come_again_and_a_state_refuses_another_size(
    tmp_path: Path, toy: Path
) -> None:
    run = federate(tmp_path, toy, ("audio+visual", "audio"), method="fedproto")
    run.round(1, sends(1, lambda a: {**a, SUM: a[SUM][:2]}))
    run.round(2)
    assert run.strategy.report.refused == []
    run.round(3, sends(1, lambda a: {**a, SUM: np.ones((3, 5), np.float32)}))
    (line,) = run.strategy.report.refused
    assert "'audio': dim 5, but 4 elsewhere" in line
    assert run.strategy.method_state["prototype.audio"].shape == (3, 4)


def test_the_state_decides_which_size_is_right_even_against_most_replies() -> None:
    state = {"prototype.audio": GOOD}
    replies = {
        p: {SUM: np.zeros((3, dim), np.float32), COUNT: np.zeros(3)}
        for p, dim in ((4, 5), (1, 5), (7, 4))
    }
    assert set(METHODS["fedproto"].incompatible_replies(state, replies)) == {1, 4}
    assert set(METHODS["fedproto"].incompatible_replies({}, replies)) == {7}
    assert METHODS["fedproto"].incompatible_replies({}, dict(list(replies.items())[1:])) == {
        # As many for each: the lowest partition's counts
        7: "prototypes of 'audio': dim 4, but 5 elsewhere."
    }
