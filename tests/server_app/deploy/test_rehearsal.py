"""What a bad day of a deployment (``tests/helpers/story.py``) leaves.

A model, and a word about every fault.
"""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import edges
import pytest
from sites import require
from story import ROUNDS, SETTINGS, Story, left_running

from client_app.app import app as client_app
from fedcmi_flwr.models.file import load_model
from fedcmi_flwr.run_config import read_run_config
from fedcmi_flwr.simulation.local_grid import LocalGrid
from server_app.app import run as run_server
from server_app.deploy.audit import entries
from server_app.launch.start import resolve
from server_app.run.directory import read_metrics
from server_app.run.records import final_accuracy

MARGIN = 0.05
"""In accuracy. In-process, with the same faults in the same rounds, five seeds ended +0.8, -3.0,
+0.8, -0.8 and 0 % from their undisturbed runs (at 90 to 95 %): this is three of their
standard deviations."""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, av_digits_dir: Path) -> Iterator[Story]:
    """Return the rehearsal, over."""
    require("nginx", "nginx-light")
    story = Story(tmp_path_factory.mktemp("deployment with a space"), av_digits_dir)
    try:
        story.tell()
        yield story
    finally:
        story.clear_away()


@pytest.fixture(scope="module")
def records(story: Story) -> list[dict[str, Any]]:
    """Return the records of the rounds."""
    return read_metrics(story.run_dir)


def test_every_round_is_there_once(records: list[dict[str, Any]]) -> None:
    assert [record["round"] for record in records] == list(range(ROUNDS + 1))


def test_the_server_ends_with_a_model_of_both_modalities(story: Story) -> None:
    model, metadata = load_model(story.run_dir / "model.safetensors")
    assert set(model.branches) == {"audio", "visual"}
    assert metadata["notes"]["round"] == ROUNDS
    assert (story.run_dir / "summary.md").is_file()
    assert len(list((story.run_dir / "checkpoints").iterdir())) == 1


def test_accuracy_is_that_of_an_undisturbed_run(
    story: Story, records: list[dict[str, Any]]
) -> None:
    logging.getLogger("flwr").setLevel(logging.ERROR)
    run_dir = story.root / "undisturbed"
    raw = resolve(story.kit / "server" / "run.toml", {**SETTINGS, "run-dir": str(run_dir)}, [])
    nodes = [
        {"partition-id": place, "modalities": "+".join(owned), "data": str(story.parts[name])}
        for place, (name, owned) in enumerate(edges.EDGES.items())
    ]
    run_server(read_run_config(raw), LocalGrid(client_app, nodes, raw), plots=False)
    undisturbed = final_accuracy(read_metrics(run_dir)[-1:])["fused"]
    assert undisturbed > 0.8
    assert final_accuracy(records[-1:])["fused"] == pytest.approx(undisturbed, abs=MARGIN)


def test_every_device_trains_what_it_owns(records: list[dict[str, Any]]) -> None:
    last = records[-1]
    assert last["nodes"] == {str(place): owned for place, owned in enumerate(edges.EDGES.values())}
    assert last["owners"] == {"audio": [0, 1, 2], "visual": [0, 1, 3], "shared": [0, 1, 2, 3]}
    assert last["refused"] == []


def test_a_device_that_joins_late_trains(records: list[dict[str, Any]]) -> None:
    assert "3" not in records[1]["nodes"]
    assert records[1]["owners"] == {"audio": [0, 1, 2], "visual": [0, 1], "shared": [0, 1, 2]}
    assert all(3 in record["owners"]["visual"] for record in records[4:])


def test_a_lost_device_is_missed_by_name_and_another_takes_its_place(
    records: list[dict[str, Any]],
) -> None:
    (line,) = [line for line in records[2]["refused"] if "partition 2" in line]
    assert "No reply of edge-audio (partition 2, audio)" in line
    assert records[2]["owners"]["audio"] == [1]
    assert 2 in records[ROUNDS]["owners"]["audio"]


def test_a_killed_client_is_refused_by_name_and_its_node_trains_on(
    records: list[dict[str, Any]],
) -> None:
    (line,) = [line for line in records[2]["refused"] if "partition 0" in line]
    assert re.search(r"Reply of edge-both \(partition 0, audio\+visual\) refused: error 8: ", line)
    assert 0 in records[3]["owners"]["shared"]


def test_a_device_that_raises_is_refused_with_its_reason_and_comes_back(
    records: list[dict[str, Any]],
) -> None:
    (line,) = [line for line in records[3]["refused"] if "partition 1" in line]
    assert "dataset.json: not found" in line
    assert 1 not in records[3]["owners"]["shared"]
    assert 1 in records[ROUNDS]["owners"]["shared"]


def test_a_dead_superlink_fails_the_command_which_says_how_to_go_on(story: Story) -> None:
    printed = story.printed("run")
    assert "does not answer any more" in printed
    assert printed.count("go on with: fedcmi deploy run") == 1
    assert printed.rstrip().endswith("--resume")
    assert "Traceback" not in printed


def test_a_run_says_that_it_is_rehearsed(story: Story) -> None:
    assert f"server: {story.address()} (rehearsal on this machine)" in story.printed("run").replace(
        "\n", " "
    )


def test_a_resumed_run_shows_the_rounds_that_are_left(story: Story) -> None:
    shown = [
        line.split()[1]
        for line in story.printed("resumed").splitlines()
        if line.startswith("round ")
    ]
    # Round 5 may have ended before the SuperLink was killed
    assert shown in (
        ["5/6", "6/6"],
        ["6/6"],
    )


def test_a_second_run_at_once_is_refused(story: Story) -> None:
    assert "another `fedcmi deploy run` trains on these devices" in story.printed(
        "second-run"
    ).replace("\n", " ")
    assert not (story.root / "runs" / "second").exists()


def test_an_interrupted_command_stops_its_run(story: Story) -> None:
    assert "interrupted; go on with: fedcmi deploy run" in story.printed("interrupted-run").replace(
        "\n", " "
    )
    ends = [run["status"] for run in story.runs]
    assert sorted(ends) == ["finished:completed", "finished:failed", "finished:stopped"]


def test_status_tells_who_is_there(story: Story) -> None:
    found = {process["name"]: process for process in json.loads(story.status)}
    assert list(found) == ["superlink", "registrar", "proxy", *edges.EDGES]
    assert [name for name, process in found.items() if not process["pid"]] == []
    assert [name for name, process in found.items() if not process["online"]] == []
    # The proxy prints errors only, of which there may be none
    silent = [name for name, process in found.items() if not process["note"]]
    assert silent in ([], ["proxy"])
    assert [process["registered"] for process in found.values()] == [
        None,
        None,
        None,
        True,
        True,
        True,
        True,
    ]


def test_a_device_that_is_not_registered_is_turned_away(story: Story) -> None:
    assert story.stranger_ended
    assert "Exit Code: 305" in story.log("stranger")
    assert "SuperNode ID" not in story.log("stranger")


def test_a_device_with_a_wrong_authority_does_not_get_in(story: Story) -> None:
    printed = story.printed("wrong-authority")
    assert "edge-visual ended" in printed
    assert "its certificate is not to be trusted by ca.crt" in printed
    assert "certificate verify failed" in printed
    assert "Starting Flower SuperNode" not in printed  # it never sent the server a word


@pytest.mark.parametrize("attempt", ["register", "submit"])
def test_a_device_neither_comes_back_with_a_fresh_key_nor_submits_a_run(
    story: Story, attempt: str
) -> None:
    assert "403" in story.attacks[attempt]


def test_a_revoked_device_is_turned_away_at_once(story: Story) -> None:
    assert not (story.home / "keys" / "edge-both-2.pub").exists()
    revoked = [entry for entry in entries(story.home) if entry["what"] == "revoke"]
    assert [entry["node"] for entry in revoked] == ["edge-both-2"]


def test_a_certificate_is_renewed_while_devices_train(story: Story) -> None:
    before, after = story.certificates
    assert before != after


def test_an_audio_only_device_never_holds_anything_visual(story: Story) -> None:
    held = [line for line in story.log("edge-audio").splitlines() if " holds " in line]
    assert {line.partition(" holds ")[2].partition(" (")[0] for line in held} == {"audio, shared"}
    data = story.parts["edge-audio"]
    assert sorted(path.name for path in (data / "train").glob("*.npy")) == [
        "audio.npy",
        "labels.npy",
    ]
    assert list(data.rglob("*visual*")) == []


def test_an_audio_only_device_moves_about_half_the_bytes(records: list[dict[str, Any]]) -> None:
    for record in (records[1], records[ROUNDS]):
        for direction in ("bytes_down", "bytes_up"):
            assert record[direction]["2"] <= 0.55 * record[direction]["0"]


def test_private_keys_stay_private(story: Story) -> None:
    keys = [story.kit / "server" / name for name in ("ca.key", "server.pem", "inner/server.key")]
    keys += [
        story.stranger / "key",
        *(story.home / name / "device" / "key" for name in edges.EDGES),
    ]
    suffixes = (".log", ".txt", ".json", ".jsonl", ".toml", ".md", ".service")
    files = [path for path in story.root.rglob("*") if path.suffix in suffixes]
    text = "".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
    assert "SuperNode ID" in text
    assert "PRIVATE KEY" not in text
    for key in keys:
        assert key.stat().st_mode & 0o777 == 0o600
        secret = key.read_text(encoding="utf-8").partition("-----END")[0].splitlines()[1:]
        assert secret
        assert [line for line in secret if line in text] == []


def test_nothing_is_left_running(story: Story) -> None:
    assert left_running(story.root) == []
    assert list(story.home.glob("*.pid")) == []


def test_an_interrupted_start_leaves_no_process(story: Story) -> None:
    process = story.begin("fedcmi deploy up deployment", "interrupted")
    story.wait(
        "the SuperLink's start",
        lambda: (story.home / "superlink.pid").exists() or process.poll() is not None,
    )
    process.terminate()
    story.end(process, 143)
    assert left_running(story.root) == []
