"""A name that is not known is answered with the nearest ones, before anything is written."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from server_app.commands.main import app


def _fails(arguments: list[str | Path], words: str) -> None:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 1
    assert re.search(words, " ".join(done.output.split()))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "fedxvg"], "method = 'fedxvg': not one of .* Did you mean 'fedavg'"),
        (["--set", "encodr=patches"], "unknown key 'encodr' .* Did you mean 'encoder'"),
        (["--set", "encoder=resnet"], "encoder = 'resnet': not one of .* Did you mean 'resnet18'"),
        (
            ["--set", "encoder=audi=resnet18 visual=resnet18"],
            "'audi' is not one of .* Did you mean 'audio'",
        ),
        (["--set", "modalities=audio+vsual"], "'vsual' is not stored, .* Did you mean 'visual'"),
        (["--set", "augment=vsual"], "'vsual' is not one of .* Did you mean 'visual'"),
        (["--set", "fusion=conct"], "fusion = 'conct': not one of .* Did you mean 'concat'"),
        (["--set", "server-optimizer=fedadm"], "'fedadm': not one of .* Did you mean 'fedadam'"),
        (
            ["--data", "av-digit"],
            "no such directory, and not a data set by name .* Did you mean 'av-digits'",
        ),
    ],
)
def test_a_run(arguments: list[str], words: str, av_digits_dir: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    _fails(["run", "--data", av_digits_dir, "--run-dir", run_dir, *arguments], words)
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("settings", "arguments", "words"),
    [
        ("av-digit", [], "setting 'av-digit': .* Did you mean 'av-digits'"),
        ("av-digits", ["--methods", "fedprx"], "row 'fedprx': .* Did you mean .*'fedprox'"),
        ("av-digits", ["--baseline", "fedagv"], "--baseline 'fedagv': .* Did you mean 'fedavg'"),
        (
            "av-digits",
            ["--set", "modalities=vsual"],
            "'vsual' is not stored, .* Did you mean 'visual'",
        ),
    ],
)
def test_a_bench(
    settings: str, arguments: list[str], words: str, av_digits_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    _fails(["bench", settings, "--data", av_digits_dir, "--out", out, *arguments], words)
    assert not out.exists()


def test_a_deployment(tmp_path: Path) -> None:
    nodes = tmp_path / "nodes.toml"
    nodes.write_text(
        '[superlink]\naddress = "localhost:9092"\ndata = "."\n[[node]]\nname = "a"\nmodality = '
        '["b"]\n'
    )
    _fails(
        ["deploy", "init", tmp_path / "kit", "--nodes", nodes],
        "unknown key 'modality'.* Did you mean 'modalities'",
    )
    assert not (tmp_path / "kit").exists()
