"""The run directory: valid JSON, figures by hand, plots that are pictures, and no overwriting."""

import errno
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedcmi_flwr import wire
from fedcmi_flwr.evaluation.counts import Counts
from fedcmi_flwr.methods.dominance import Dominance
from fedcmi_flwr.strategy.round_plan import RoundPlan
from fedcmi_flwr.strategy.round_report import RoundReport
from server_app.run.directory import RunDirectory, RunDirectoryError, read_metrics
from server_app.run.records import final_accuracy, json_ready, round_line, round_record
from server_app.run.summary import summary

DATASET = {"classes": ["low", "high"], "modalities": ["audio", "visual"]}
CONFIG = {"method": "fedcmi", "data": "toy", "seed": 4, "dataset": DATASET}
PNG = b"\x89PNG\r\n\x1a\n"


def _report(server_round: int) -> RoundReport:
    info = wire.NodeInfo(("audio", "visual"), 2)
    measured = Dominance(
        "audio", {"visual": torch.tensor([2.0, math.nan])}, {"visual": torch.tensor([0.5, 1.0])}
    )
    sent = {77: (info, ("audio", "visual", "shared"))}
    return RoundReport(
        RoundPlan(server_round, used=Dominance("visual", {}, {}), sent=sent),
        measured=measured,
        losses={"fused": 1.25, "kd": 0.5},
        owners={"audio": [2], "visual": [], "shared": [2]},
        examples={2: 9},
        refused=["Reply of node 5 refused: no."],
        bytes_down={2: 3_000_000},
        bytes_up={2: 1_500_000},
        train_seconds={2: 1.75},
        asking_seconds=0.5,
        seconds=2.5,
    )


def _counts(right: int, touch: bool = True) -> dict[str, Counts]:
    """Return ``right`` of 8 (6 of the first class) right for fused; nobody has touch."""
    counts = {
        "fused": Counts(np.array([right, 0]), np.array([6, 2])),
        "audio head": Counts(np.array([1, 1]), np.array([2, 1])),
    }
    return {**counts, "touch only": Counts(np.zeros(2, int), np.zeros(2, int))} if touch else counts


def _records(rights: list[int], touch: bool = False) -> list[dict[str, Any]]:
    return [
        round_record(t, _counts(right, touch), _report(t) if t else None)
        for t, right in enumerate(rights)
    ]


def test_who_is_known_is_written_when_it_changes_and_read_everywhere(tmp_path: Path) -> None:
    """At 590 nodes that is 19 KB of a round's line."""
    many = {str(place): ["audio", "visual"] for place in range(590)}
    fewer = {place: many[place] for place in list(many)[1:]}
    known = [{}, many, many, many, fewer, fewer, many]
    rounds = [
        record | {"known_nodes": nodes}
        for record, nodes in zip(_records([1] * 7), known, strict=True)
    ]
    directory = RunDirectory(tmp_path / "run")
    for record in rounds[:6]:
        directory.append(record)
    sizes = [len(line) for line in directory.metrics_path.read_text().splitlines()]
    assert min(sizes[1], sizes[4]) > 17_000
    assert max(sizes[2], sizes[3], sizes[5]) < 2_000

    resumed = RunDirectory(tmp_path / "run", resumed=True)
    resumed.rewind(3)
    for record in rounds[4:]:
        resumed.append(record)
    assert read_metrics(resumed.path) == json.loads(json.dumps(json_ready(rounds)))
    written = [json.loads(line) for line in resumed.metrics_path.read_text().splitlines()]
    assert [place for place, record in enumerate(written) if "known_nodes" in record] == [
        0,
        1,
        4,
        6,
    ]


def test_records_of_earlier_versions_are_read_and_gone_on_with(tmp_path: Path) -> None:
    """They say in each round who is known."""
    old = [record | {"known_nodes": {"0": ["audio"]}} for record in _records([1, 2, 3])]
    directory = RunDirectory(tmp_path / "run", resumed=True)
    directory.metrics_path.write_text(
        "".join(json.dumps(json_ready(record)) + "\n" for record in old)
    )
    assert read_metrics(directory.path) == json.loads(json.dumps(json_ready(old)))
    directory.rewind(1)
    directory.append(old[2])
    assert read_metrics(directory.path) == json.loads(json.dumps(json_ready(old)))


def test_metrics_are_json_without_nan_and_read_back(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "new" / "run")
    for record in _records([1, 3], touch=True):
        directory.append(record)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    lines = (directory.path / "metrics.jsonl").read_text().splitlines()
    first, second = (json.loads(line, parse_constant=refuse) for line in lines)
    assert "known_nodes" not in second
    assert [first, {**second, "known_nodes": first["known_nodes"]}] == read_metrics(directory.path)
    assert second["measured"] == {
        "dominant": "audio",
        "ratio": {"visual": [2.0, None]},
        "temperature": {"visual": [0.5, 1.0]},
    }
    assert second["accuracy"] == {"fused": 3 / 8, "audio head": 2 / 3, "touch only": None}
    assert second["macro"]["fused"] == 0.25
    assert second["worst_class"]["fused"] == 0.0
    assert second["counts"]["fused"] == {"correct": [3, 0], "count": [6, 2]}
    assert (second["teacher"], second["nodes"], second["owners"]["visual"]) == (
        "visual",
        {"2": ["audio", "visual"]},
        [],
    )
    assert (second["bytes_down"], second["bytes_up"], second["num_examples"]) == (
        {"2": 3000000},
        {"2": 1500000},
        9,
    )
    assert (first["examples"], second["examples"]) == ({}, {"2": 9})
    assert (first["train_seconds"], second["train_seconds"]) == ({}, {"2": 1.75})
    assert (first["asking_seconds"], second["asking_seconds"]) == (0, 0.5)
    assert (first["round"], first["teacher"], first["losses"], first["measured"]["dominant"]) == (
        0,
        None,
        {},
        None,
    )


def test_what_json_has_no_word_for_becomes_null() -> None:
    value = {
        "a": [math.nan, math.inf, 1.5, (2, -math.inf)],
        "b": {"c": math.nan, "d": "text", "e": True},
    }
    assert json_ready(value) == {
        "a": [None, None, 1.5, [2, None]],
        "b": {"c": None, "d": "text", "e": True},
    }


def test_final_accuracy_is_the_mean_of_the_last_five_trained_rounds() -> None:
    """Rounds 1 to 6 have 1 to 6 of 8 right: the mean of the last five is 4/8; of two, 1.5/8.

    Round 0 does not count.
    """
    assert final_accuracy(_records([8, 1, 2, 3, 4, 5, 6]))["fused"] == pytest.approx(4 / 8)
    assert final_accuracy(_records([8, 1, 2]))["fused"] == pytest.approx(1.5 / 8)


def test_summary_by_hand() -> None:
    """Of rounds 1 and 2 with 1 and 3 of 8 right.

    Mean 25.0%, last 37.5%, macro (3/6 + 0) / 2, worst class 0.

    Over both rounds the classes have 1/3 and 0, which are 1/6 from their mean.
    """
    text = summary(_records([0, 1, 3]), CONFIG)
    assert "# fedcmi on toy, seed 4, 2 rounds" in text
    assert "| fused | 25.0% | 37.5% | 25.0% | 0.0% |" in text
    assert "mean of last 2 rounds" in text
    assert "training time 5.0 s, sent to nodes 6.00 MB, received 3.00 MB" in text
    assert "dominant modality in the last round: audio" in text
    assert "- worst class: high with 0.0%; standard deviation 16.7 points over classes\n" in text
    assert "replies refused or missing: 2\n  - Reply of node 5" in text


def test_summary_names_failed_rounds() -> None:
    """The last of three rounds failed.

    Nothing was measured in it, which the method does measure.
    """
    records = _records([0, 1, 3, 3])
    assert "failed rounds" not in summary(records, CONFIG)
    records[-1] |= {
        "failed": "round 3: no.",
        "measured": {"dominant": None, "ratio": {}, "temperature": {}},
    }
    text = summary(records, CONFIG)
    assert "- failed rounds: 1\n  - round 3: no.\n" in text
    assert "dominant modality in the last round: none\n" in text


def test_round_line_by_hand() -> None:
    assert round_line(_records([0, 3])[1], 20) == (
        "round  1/20 | loss fused 1.250 kd 0.500 | dominant audio | accuracy fused 37.5% | 2.5 s | "
        "down 3.00 MB up 1.50 MB | 1 refused"
    )


def test_finish_writes_summary_and_pictures(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    for record in _records([0, 1, 3]):
        directory.append(record)
    directory.finish(CONFIG)
    assert (tmp_path / "summary.md").read_text().startswith("# fedcmi on toy")
    for name in ("accuracy", "dominance", "temperature"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(PNG)


def test_finish_without_dominance_draws_accuracy_only(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    for record in _records([0, 1]):
        directory.append({**record, "measured": {"dominant": None, "ratio": {}, "temperature": {}}})
    directory.finish(CONFIG)
    assert {path.name for path in tmp_path.glob("*.png")} == {"accuracy.png"}
    assert "not measured by this method" in (tmp_path / "summary.md").read_text()


def test_a_way_to_predict_without_test_samples_does_not_end_the_run(tmp_path: Path) -> None:
    """Its accuracy is null in metrics.jsonl.

    The line of the round, the summary and the plot are made all the same.
    """
    directory = RunDirectory(tmp_path)
    for record in _records([0, 1, 3], touch=True):
        directory.append(record)
    assert "fused 37.5%" in round_line(read_metrics(tmp_path)[-1], 2)
    directory.finish(CONFIG)
    assert "| fused | 25.0% | 37.5% |" in (tmp_path / "summary.md").read_text()
    assert (tmp_path / "accuracy.png").read_bytes().startswith(PNG)


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    RunDirectory(tmp_path).append(_records([0])[0])
    before = (tmp_path / "metrics.jsonl").read_bytes()
    with pytest.raises(RunDirectoryError, match="already holds a run; give another run-dir"):
        RunDirectory(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_an_error_is_written_with_its_reason_first(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    try:
        raise OSError("disk is full")
    except OSError as error:
        directory.write_error(error)
    first, blank, *rest = (tmp_path / "error.txt").read_text().splitlines()
    assert (first, blank) == ("OSError: disk is full", "")
    assert rest[0].startswith("Traceback")


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs Linux's device that is always full"
)
def test_a_full_disk_is_told_with_the_path_and_hides_no_other_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory(tmp_path / "run")
    directory.metrics_path.symlink_to("/dev/full")
    with pytest.raises(OSError, match=rf"No space left on device: '{directory.metrics_path}'"):
        directory.append({"round": 0})

    def full(path: Path, content: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("server_app.run.directory.write_atomically", full)
    directory.write_error(ValueError("what happened first"))
    assert not (tmp_path / "run" / "error.txt").exists()
