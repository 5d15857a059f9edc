"""Real runs on Flower's simulation.

Ray actors, a SuperLink, and the command line's word on how it ended.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from commands import fedcmi
from safetensors.numpy import load_file

from server_app.launch.flower_cli import FlowerRunError, free_port
from server_app.launch.flower_run import check_cluster, check_interpreter, ray_directory


def run_arguments(data: Path, run_dir: Path) -> list[str | Path]:
    small = [
        "--num-nodes",
        "4",
        "--rounds",
        "2",
        "--set",
        "local-epochs=1",
        "--set",
        "multimodal-ratio=0.5",
    ]
    return ["run", "--data", data, "--run-dir", run_dir, *small]


def test_ray_and_in_process_give_the_same_weights(av_digits_dir: Path, tmp_path: Path) -> None:
    """Whatever characters a text of the run-config holds, it travels."""
    tmp_path = tmp_path / """it's "quoted" = \\ ä"""
    for engine in ("flower", "in-process"):
        done = fedcmi(*run_arguments(av_digits_dir, tmp_path / engine), "--engine", engine)
        assert done.exit_code == 0, done.output
        assert "round 2/2 | loss fused" in done.stdout
        assert done.stdout.count("start-up: SuperLink") == (engine == "flower")
        assert str(tmp_path / engine) in done.stdout.splitlines()[-1]
    ray, local = (
        load_file(tmp_path / engine / "model.safetensors") for engine in ("flower", "in-process")
    )
    assert {name for name in ray if not np.array_equal(ray[name], local[name])} == set()
    lines = (tmp_path / "flower" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["round"] for line in lines] == [0, 1, 2]


def test_clients_that_raise_fail_the_run_with_their_reason(
    av_digits_dir: Path, tmp_path: Path
) -> None:
    done = fedcmi(*run_arguments(av_digits_dir, tmp_path / "run"), "--set", "lr=1e9")
    assert done.exit_code == 1
    assert "training diverged" in done.stderr
    assert "none of 2 replies can be used" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--method", "fedmagic"], "method = 'fedmagic': not one of"),
        (["--set", "lr=-1"], "lr = -1.0: must be a number above 0"),
        (["--set", "learning-rate=1"], "unknown key 'learning-rate'"),
        (
            ["--engine", "in-process", "--data", "/does/not/exist"],
            "data = '/does/not/exist': no such directory",
        ),
        (["--engine", "in-process", "--num-nodes", "500"], "500"),
    ],
)
def test_what_cannot_run_says_why(arguments: list[str], reason: str, tmp_path: Path) -> None:
    done = fedcmi("run", "--run-dir", tmp_path / "run", *arguments)
    assert done.exit_code == 1
    assert reason in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_bench_has_the_same_numbers_on_ray_and_in_process(
    av_digits_dir: Path, tmp_path: Path
) -> None:
    small = [
        "--seeds",
        "1",
        "--num-nodes",
        "4",
        "--set",
        "num-server-rounds=2",
        "--set",
        "local-epochs=1",
    ]
    for engine in ("flower", "in-process"):
        bench = [
            "bench",
            "av-digits",
            "--methods",
            "fedcmi-plus",
            "--data",
            av_digits_dir,
            "--engine",
            engine,
        ]
        done = fedcmi(*bench, "--out", tmp_path / engine, *small)
        assert done.exit_code == 0, done.output
    for name in ("results.csv", "table.md"):
        assert (tmp_path / "flower" / name).read_bytes() == (
            tmp_path / "in-process" / name
        ).read_bytes()


def test_a_cluster_that_is_not_there_is_told_at_once() -> None:
    with pytest.raises(
        FlowerRunError, match=r"no Ray cluster answers there .* or unset RAY_ADDRESS"
    ):
        check_cluster(f"127.0.0.1:{free_port()}")


@pytest.mark.parametrize("address", ["", "auto", "local"])
def test_other_forms_of_the_address_are_left_to_ray(address: str) -> None:
    check_cluster(address)


@pytest.mark.parametrize(
    "name", ["My Projects", "it's", "R&D", "a(1)", "b;c", "$HOME", "tab\there"]
)
def test_an_interpreter_that_ray_cannot_start_is_told_at_once(name: str) -> None:
    """Ray would try for ever."""
    with pytest.raises(FlowerRunError, match=r"Ray cannot start .*--engine in-process"):
        check_interpreter(f"/home/me/{name}/.venv/bin/python")


@pytest.mark.parametrize("name", ["projects", "Jürgen", "a-b_c.d+e@f%g:h,i=j", "x[1]{2}#~"])
def test_other_names_are_left_alone(name: str) -> None:
    check_interpreter(f"/home/me/{name}/.venv/bin/python")


@pytest.mark.parametrize(
    ("chosen", "taken"), [("/tmp/" + "x" * 36, "/tmp"), ("/tmp/short", "/tmp/short")]
)
def test_ray_has_a_directory_whose_path_is_short_enough(
    chosen: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", chosen)
    assert ray_directory() == taken
