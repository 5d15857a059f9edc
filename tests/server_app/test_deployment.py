"""The deployment rehearsal: real SuperLink and SuperNodes on loopback, started as a user starts them."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server_app.checkpoint import load_model
from server_app.report import read_metrics

SCRIPT = Path(__file__).resolve().parents[2] / "server_app" / "rehearse_deployment.sh"
BASH = shutil.which("bash") or "bash"
DEVICES = {"edge-both": ["audio", "visual"], "edge-audio": ["audio"], "edge-visual": ["visual"]}
"""Device -> what it owns; the position is its partition id."""
PRIVATE_KEYS = ("server/ca.key", "server/server.key", *(f"{name}/key" for name in (*DEVICES, "edge-stranger")))


def environment(**changes: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, **changes}


def start(out: Path, **changes: str) -> subprocess.Popen[str]:
    """Start the script in another directory than the project's, with its output going to a file beside ``out``."""
    with out.with_suffix(".txt").open("w", encoding="utf-8") as output:
        command = [BASH, str(SCRIPT), out.name]
        return subprocess.Popen(
            command, cwd=out.parent, env=environment(**changes), stdout=output, stderr=output, text=True
        )


def wait(process: subprocess.Popen[str], timeout: float) -> int:
    """Wait for the script; past its time it is asked to end, so that it can stop what it started."""
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait(60)
        raise


def left_running(out: Path) -> list[str]:
    """Return what still runs of a rehearsal: processes it noted, and on Linux any whose environment names ``out``."""
    noted = [file.name for file in out.rglob("*.pid") if is_running(int(file.read_text()))]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.fsencode(out) in (process / "environ").read_bytes():
                noted.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it ended, or it is not ours
            continue
    return noted


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory of a finished rehearsal; its output is in ``rehearsal.txt`` beside it."""
    out = tmp_path_factory.mktemp("deployment with a space") / "rehearsal"
    code = wait(start(out, TIME_LIMIT="300"), timeout=500)
    assert code == 0, printed(out)
    yield out
    assert left_running(out) == []


def printed(out: Path) -> str:
    return out.with_suffix(".txt").read_text(encoding="utf-8")


def trained_rounds(out: Path) -> list[dict[str, Any]]:
    records = read_metrics(out / "run")
    assert [record["round"] for record in records] == [0, 1, 2]
    return records[1:]


def test_the_server_ends_with_a_model_of_both_modalities(rehearsal: Path) -> None:
    model, metadata = load_model(rehearsal / "run" / "model.safetensors")
    assert set(model.branches) == {"audio", "visual"}
    assert metadata["notes"]["round"] == 2
    assert f"model: {rehearsal}/run/model.safetensors" in printed(rehearsal)
    assert (rehearsal / "run" / "summary.md").is_file()


def test_every_device_trains_what_it_owns_in_every_round(rehearsal: Path) -> None:
    for record in trained_rounds(rehearsal):
        assert record["nodes"] == {str(partition): owned for partition, owned in enumerate(DEVICES.values())}
        assert record["owners"] == {"audio": [0, 1], "visual": [0, 2], "shared": [0, 1, 2]}
        assert record["refused"] == []


def test_an_audio_only_device_never_holds_anything_visual(rehearsal: Path) -> None:
    device = rehearsal / "edge-audio"
    held = [line for line in (device / "supernode.log").read_text(encoding="utf-8").splitlines() if " holds " in line]
    assert [line.partition(" holds ")[2].partition(" (")[0] for line in held] == ["audio, shared"] * 2
    stored = json.loads((device / "data" / "dataset.json").read_text(encoding="utf-8"))["modalities"]
    assert [modality["name"] for modality in stored] == ["audio"]
    assert sorted(path.name for path in (device / "data" / "train").glob("*.npy")) == ["audio.npy", "labels.npy"]
    assert list((device / "data").rglob("*visual*")) == []
    assert "edge-audio held the parameter groups: audio, shared\n" in printed(rehearsal)


def test_an_audio_only_device_moves_about_half_the_bytes(rehearsal: Path) -> None:
    for record in trained_rounds(rehearsal):
        for direction in ("bytes_down", "bytes_up"):
            assert record[direction]["1"] <= 0.55 * record[direction]["0"]


def test_a_device_that_is_not_registered_is_turned_away(rehearsal: Path) -> None:
    log = (rehearsal / "edge-stranger" / "supernode.log").read_text(encoding="utf-8")
    assert "Exit Code: 305" in log
    assert "SuperNode ID" not in log


def test_private_keys_stay_private(rehearsal: Path) -> None:
    logs = [path for path in rehearsal.rglob("*") if path.suffix in (".log", ".json", ".jsonl", ".toml", ".md")]
    text = printed(rehearsal) + "".join(path.read_text(encoding="utf-8", errors="replace") for path in logs)
    assert "SuperNode ID" in text
    assert "PRIVATE KEY" not in text
    for name in PRIVATE_KEYS:
        key = rehearsal / name
        assert key.stat().st_mode & 0o777 == 0o600
        secret = key.read_text(encoding="utf-8").splitlines()[1:-1]
        assert secret
        assert [line for line in secret if line in text] == []


def test_an_interrupted_rehearsal_leaves_no_process(tmp_path: Path) -> None:
    out = tmp_path / "rehearsal"
    process = start(out)
    deadline = time.monotonic() + 60
    while not (out / "edge-visual" / "prep.pid").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    assert wait(process, timeout=60) == 143, printed(out)
    assert left_running(out) == []


@pytest.mark.parametrize("missing", ["openssl", "ssh-keygen"])
def test_a_missing_tool_is_named(tmp_path: Path, missing: str) -> None:
    (tmp_path / "bin").mkdir()
    for tool in {"openssl", "ssh-keygen"} - {missing}:
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    code = wait(start(tmp_path / "out", PATH=str(tmp_path / "bin")), timeout=30)
    assert code == 1
    assert f"error: {missing} is not installed" in printed(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_in_use_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    assert wait(start(out), timeout=30) == 1
    assert "exists and is not an empty directory" in printed(out)
    assert [path.name for path in out.iterdir()] == ["mine"]
