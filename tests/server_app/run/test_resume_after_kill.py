"""Runs of the command line that are killed with kill -9 and go on in another process, this one."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import oracle
import psutil
import pytest
from commands import fedcmi
from people import prepare_people
from safetensors.numpy import load_file

from client_app.app import app as client_app
from fedcmi_flwr.config.fields import ConfigError
from server_app.launch.record import go_on
from server_app.launch.start import resolve, run_in_process
from server_app.run.directory import read_metrics

ROOT = Path(__file__).parents[3]
FEDCMI = [sys.executable, "-m", "server_app.commands.main"]
NODES = 4
LIGHT: dict[str, Any] = {
    "num-server-rounds": 6,
    "local-epochs": 1,
    "multimodal-ratio": 0.5,
    "fraction-train": 0.75,
}


def start_and_kill(
    run_dir: Path, settings: dict[str, Any], after: int, engine: str = "in-process"
) -> None:
    """Start a run as a user does and kill it when it shows a round."""
    with started(run_dir, settings, engine) as command:
        wait_for_round(command, after)
        command.send_signal(signal.SIGKILL)
    assert command.returncode == -signal.SIGKILL
    assert not (run_dir / "summary.md").exists()


def started(run_dir: Path, settings: dict[str, Any], engine: str) -> subprocess.Popen[str]:
    chosen = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [
        *FEDCMI,
        "run",
        "--engine",
        engine,
        "--num-nodes",
        str(NODES),
        "--run-dir",
        str(run_dir),
        *chosen,
    ]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_round(command: subprocess.Popen[str], server_round: int) -> None:
    assert command.stdout is not None
    shown = next(
        (line for line in command.stdout if line.startswith(f"round {server_round}/")), None
    )
    assert shown is not None, command.stderr and command.stderr.read()


def assert_same(run_dir: Path, whole: Path, rounds: int) -> None:
    found, expected = (load_file(directory / "model.safetensors") for directory in (run_dir, whole))
    assert {name: value.tobytes() for name, value in found.items()} == {
        name: value.tobytes() for name, value in expected.items()
    }
    records, others = (
        [oracle.untimed(record) for record in read_metrics(path)] for path in (run_dir, whole)
    )
    assert records == others
    assert [record["round"] for record in records] == list(range(rounds + 1))
    names = {path.name for path in run_dir.iterdir()}
    assert names == {path.name for path in whole.iterdir()} | {"launch.json", "launch.lock"}


def uninterrupted(run_dir: Path, settings: dict[str, Any]) -> Path:
    raw = resolve(None, {**settings, "run-dir": str(run_dir), "node-memory": "run-dir"}, [])
    return run_in_process(raw, NODES, client_app, lambda line: None)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "fedcmi-plus", "lr-decay-start": 2},
        {"method": "scaffold", "server-optimizer": "fedadam", "averaging": 0.5},
        {"method": "moon", "server-optimizer": "fedavgm"},
        {"method": "fedproto", "server-optimizer": "fedyogi"},
    ],
    ids=lambda changes: changes["method"],
)
def test_kill_9_and_resume_give_the_bits_of_one_run(
    tmp_path: Path, av_digits_dir: Path, changes: dict[str, Any]
) -> None:
    settings = {**LIGHT, "data": str(av_digits_dir), **changes}
    start_and_kill(tmp_path / "run", settings, after=3)
    done = fedcmi("run", "--resume", tmp_path / "run")
    assert done.exit_code == 0, done.output
    # It is not killed in no time
    assert "round 4/6 | loss fused" in done.stdout or "round 5/6" in done.stdout
    assert "round 3/6" not in done.stdout
    assert_same(tmp_path / "run", uninterrupted(tmp_path / "whole", settings), 6)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return motion, notes and a table of people, prepared."""
    return prepare_people(tmp_path_factory.mktemp("people"))


@pytest.mark.parametrize(
    "encoders",
    ["motion=gru note=bag-of-words lab=mlp", "motion=transformer-1d note=text-cnn lab=linear"],
    ids=["gru and bag-of-words", "transformer-1d and text-cnn"],
)
def test_series_texts_and_tables_go_on_with_adamw(
    tmp_path: Path, people: Path, encoders: str
) -> None:
    """What AdamW keeps begins anew with each round.

    The rate is that of the round, warmed up and along a cosine.
    """
    settings = {**LIGHT, "data": str(people), "encoder": encoders, "optimizer": "adamw", "lr": 0.003, "batch-size": 8,
                "accumulate-batches": 2, "lr-schedule": "cosine", "lr-warmup-rounds": 2, "lr-decay-start": 2,
                "min-partition-size": 2}  # fmt: skip
    start_and_kill(tmp_path / "run", settings, after=3)
    done = fedcmi("run", "--resume", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "round 4/6 | loss fused" in done.stdout or "round 5/6" in done.stdout
    assert_same(tmp_path / "run", uninterrupted(tmp_path / "whole", settings), 6)


def kill_an_actor(command: subprocess.Popen[str]) -> None:
    """Kill one of the processes in which Ray simulates clients."""
    family = psutil.Process(command.pid).children(recursive=True)
    actors = [
        process
        for process in family
        if "ClientAppActor" in process.name() + "".join(process.cmdline())
    ]
    assert actors, [process.name() for process in family]
    actors[0].kill()


def test_a_killed_actor_ends_the_run_which_can_go_on(tmp_path: Path, av_digits_dir: Path) -> None:
    settings = {**LIGHT, "data": str(av_digits_dir), "num-server-rounds": 8, "local-epochs": 3}
    with started(tmp_path / "run", settings, "flower") as command:
        wait_for_round(command, 2)
        kill_an_actor(command)
        _, said = command.communicate(timeout=300)
    assert command.returncode == 1
    assert "a simulated client's process died" in said
    done = fedcmi("run", "--resume", tmp_path / "run", "--engine", "in-process")
    assert done.exit_code == 0, done.output
    assert_same(tmp_path / "run", uninterrupted(tmp_path / "whole", settings), 8)


def test_ray_goes_on_with_what_ray_began(tmp_path: Path, av_digits_dir: Path) -> None:
    """With SCAFFOLD, whose nodes have to find their control variates from Ray's actors too.

    The killed command's SuperLink ends by itself; going on waits for its last process.
    """
    settings = {
        **LIGHT,
        "data": str(av_digits_dir),
        "method": "scaffold",
        "num-server-rounds": 8,
        "local-epochs": 3,
    }
    start_and_kill(tmp_path / "run", settings, after=1, engine="flower")
    done = fedcmi("run", "--resume", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "round 8/8 | loss fused" in done.stdout
    assert "round 1/8" not in done.stdout
    assert_same(tmp_path / "run", uninterrupted(tmp_path / "whole", settings), 8)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, av_digits_dir: Path) -> Path:
    run_dir = tmp_path_factory.mktemp("killed") / "run"
    start_and_kill(run_dir, {**LIGHT, "data": str(av_digits_dir)}, after=1)
    return run_dir


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"options": {"seed": 1}}, "seed = 1: the run in .* has 0"),
        ({"options": {"num-server-rounds": 5}}, "num-server-rounds = 5: the run in .* has 6"),
        ({"assignments": ["lr=0.01"]}, "lr = 0.01: the run in .* has 0.05"),
        ({"num_nodes": 5}, "num-nodes = 5: the run in .* has 4"),
    ],
)
def test_a_changed_run_is_refused(killed: Path, changes: dict[str, Any], reason: str) -> None:
    before = (killed / "metrics.jsonl").read_bytes()
    given = {"recipe": None, "options": {}, "assignments": [], "num_nodes": None, "engine": None}
    with pytest.raises(ConfigError, match=reason), go_on(killed, **{**given, **changes}):
        pass
    assert (killed / "metrics.jsonl").read_bytes() == before


def test_the_command_line_says_no(killed: Path) -> None:
    done = fedcmi("run", "--resume", killed, "--rounds", "5")
    assert (done.exit_code, "num-server-rounds = 5: the run in " in done.stderr) == (1, True)


def test_what_is_no_unfinished_run_of_fedcmi_run_says_so(tmp_path: Path, plus_run: Path) -> None:
    done = fedcmi("run", "--resume", tmp_path)
    assert (done.exit_code, "holds no run" in done.stderr) == (1, True)
    done = fedcmi("run", "--resume", plus_run)
    assert (done.exit_code, "this run is finished" in done.stdout) == (0, True)
    (tmp_path / "metrics.jsonl").write_text("", encoding="utf-8")
    done = fedcmi("run", "--resume", tmp_path)
    assert (done.exit_code, "was not started by `fedcmi run`" in done.stderr) == (1, True)
    done = fedcmi("run", "--resume", tmp_path, "--run-dir", tmp_path)
    assert (done.exit_code, "leave --run-dir out" in done.stderr) == (1, True)
