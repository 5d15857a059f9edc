"""``fedcmi predict`` and ``fedcmi export``.

From a run directory and files to words, JSON and graphs.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import commands
import federated
import kinds
import media
import numpy as np
import pytest
import saved
import soundfile
from PIL import Image
from typer.testing import CliRunner, Result

from data_prep.errors import PrepError
from data_prep.files import raw_samples
from data_prep.files.makers import Source
from fedcmi_flwr.data.schema import read_recipes
from fedcmi_flwr.inference.predictor import Predictor
from server_app.commands.main import app

REPOSITORY = Path(__file__).parents[3]
DIGITS = [str(digit) for digit in range(10)]
HEAVY = ("flwr", "ray", "pandas", "sklearn", "scipy", "torchvision", "transformers", "matplotlib", "av", "onnx",
         "pyarrow", "PIL")  # fmt: skip
"""What classifying a WAV file has no use for."""


@pytest.fixture(scope="module")
def run_dir(av_digits_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run on av-digits after its first round."""
    directory = tmp_path_factory.mktemp("run")
    run = federated.federate(directory, av_digits_dir, ["", ""])
    run.round(1)
    run.evaluate(1)
    return directory


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "five.wav", media.tone(0.4, 8000, 770), 8000, subtype="PCM_16")
    return tmp_path / "five.wav"


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def said(*arguments: object) -> dict:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def test_a_run_keeps_what_turns_files_into_samples(run_dir: Path, av_digits_dir: Path) -> None:
    assert Predictor.load(run_dir, "cpu").recipes == read_recipes(av_digits_dir)


def test_a_wav_file_alone(run_dir: Path, wav: Path) -> None:
    (found,) = said(run_dir, wav)["predictions"]
    assert (found["sample"], found["modalities"], found["calibrated"]) == (
        str(wav),
        ["audio"],
        False,
    )
    assert sorted(found["probabilities"]) == DIGITS
    assert sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert (
        found["confidence"]
        == max(found["probabilities"].values())
        == found["probabilities"][found["class"]]
    )
    line = call(run_dir / "model.safetensors", wav).stdout
    assert line.startswith(
        f"{found['class']} ({found['confidence']:.1%}, uncalibrated), then {found['runner_up']} ("
    )
    assert line.endswith("five.wav [audio]\n")


def test_several_files_are_one_sample(run_dir: Path, wav: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(tmp_path / "blank.png")
    for arguments in (
        [wav, tmp_path / "blank.png"],
        [f"visual={tmp_path / 'blank.png'}", f"audio={wav}"],
    ):
        (found,) = said(run_dir, *arguments)["predictions"]
        assert found["modalities"] == ["audio", "visual"]


def test_a_directory_is_many_samples(run_dir: Path, wav: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(tmp_path / "other.png")
    found = said(run_dir, tmp_path)["predictions"]
    assert [(Path(each["sample"]).name, each["modalities"]) for each in found] == [
        ("five.wav", ["audio"]), ("other.png", ["visual"]),
    ]  # fmt: skip


def test_bad_and_stray_files_stop_nothing(run_dir: Path, wav: Path) -> None:
    directory = wav.parent
    soundfile.write(directory / "quiet.wav", np.zeros(8000), 8000)
    (directory / "broken.wav").write_text("no sound")
    for name in ("notes.txt", "more.txt", "LICENSE"):
        (directory / name).touch()
    result = call(run_dir, directory)
    assert result.exit_code == 1
    assert [line.split(": ")[1] for line in result.stdout.splitlines()] == [f"{wav} [audio]"]
    unfinished, skipped, heading, *unreadable = result.stderr.splitlines()
    assert unfinished.endswith("its run is not finished; the model is that of round 1 of 20.")
    assert skipped == "skipped 3 files that the model does not take: no ending 1, .txt 2"
    assert heading == "error: 2 of the files cannot be read:"
    assert unreadable[0].startswith(f"{directory / 'broken.wav'}: not decodable (")
    assert unreadable[1].startswith(
        f"{directory / 'quiet.wav'}: silent in its first 6144 samples; trim the silence"
    )
    result = call(run_dir, directory, "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert [each["sample"] for each in found["predictions"]] == [str(wav)]
    assert [Path(path).name for path in found["unreadable"]] == ["broken.wav", "quiet.wav"]


def test_an_export_says_that_its_run_is_not_finished(run_dir: Path, tmp_path: Path) -> None:
    done = commands.fedcmi(
        "export", run_dir, "--out", tmp_path / "graphs", "--modalities", "visual"
    )
    assert done.exit_code == 0, done.output
    assert "its run is not finished; the model is that of round 1 of 20." in done.stderr
    described = json.loads((tmp_path / "graphs" / "export.json").read_text())
    assert described["rounds"] == {"finished": 1, "planned": 20}


def test_predictions_do_not_wait_for_the_last_file(
    run_dir: Path, wav: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is an error of another kind ends the command after what was predicted
    before it.
    """
    shutil.copy(wav, wav.with_name("later.wav"))
    make, calls = raw_samples.make_sample, []

    def fail_later(source: Source, *arguments: Any) -> np.ndarray:
        calls.append(source)
        if len(calls) > 1:
            raise PrepError("no more")
        return make(source, *arguments)

    monkeypatch.setattr(raw_samples, "CHUNK", 1)
    monkeypatch.setattr(raw_samples, "make_sample", fail_later)
    result = call(run_dir, wav.parent)
    assert result.exit_code == 1
    assert result.stdout.endswith(f"{wav} [audio]\n")
    assert "error: no more" in result.stderr


@pytest.mark.parametrize("names", [None, "audio"])
def test_a_prepared_directory_has_an_accuracy(
    run_dir: Path, av_digits_dir: Path, names: str | None
) -> None:
    options = ["--modalities", names] if names else []
    stored = {name: np.load(av_digits_dir / "test" / f"{name}.npy") for name in ("audio", "visual")}
    inputs = {name: array for name, array in stored.items() if names in (None, name)}
    right = Predictor.load(run_dir, "cpu").predict(inputs) == np.load(
        av_digits_dir / "test" / "labels.npy"
    )
    found = said(run_dir, "--data", av_digits_dir, *options)
    assert found["accuracy"] == np.mean(right)
    assert [each["class"] == each["label"] for each in found["predictions"]] == right.tolist()
    text = call(run_dir, "--data", av_digits_dir, *options).stdout
    assert (
        text == f"accuracy {np.mean(right):.1%} on the test split: 500 samples (500 by "
        f"{'+'.join(inputs)})\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give files to predict, or a prepared directory as --data"),
        (["x.wav", "--data", "."], "and not both"),
        (["x.wav"], "x.wav: no such file or directory"),
        (
            ["x.wav", "--modalities", "audio+smell"],
            "asked for modality 'smell', the model has ['audio', 'visual']",
        ),
        (["x.wav", "--modalities", ""], "asked for modality '', the model has ['audio', 'visual']"),
        (
            ["x.wav", "--split", "test"],
            "--split test: is of a prepared directory; give one as --data",
        ),
        (["--data", "."], "is not a finished prepared directory"),
    ],
    ids=["nothing", "both", "missing", "unknown modality", "no modality", "split", "no data"],
)
def test_what_cannot_be_predicted_says_why(
    run_dir: Path, arguments: list[str], message: str
) -> None:
    result = call(run_dir, *arguments)
    assert result.exit_code == 1
    assert message in result.output


def test_models_of_data_without_recipes_say_so(tmp_path: Path, wav: Path) -> None:
    model = saved.save(tmp_path / "old.safetensors", [kinds.SPECTROGRAM])
    result = call(model, wav)
    assert result.exit_code == 1
    assert "does not say how files become samples of 'audio'" in result.output
    assert "Prepare them again" in result.output


def test_a_wav_file_needs_nothing_heavy(run_dir: Path, wav: Path) -> None:
    """Starting is most of the time of one prediction.

    Only torch and what reads the file are imported.
    """
    program = (
        "import sys\n"
        "from server_app.commands.main import app\n"
        "try:\n"
        f"    app(['predict', {str(run_dir)!r}, {str(wav)!r}, '--device', 'cpu'])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert "[audio]" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


def test_help_does_not_wait_for_torch() -> None:
    program = (
        "import sys\n"
        "from server_app.commands.main import app\n"
        "try:\n"
        "    app(['--help'])\n"
        "except SystemExit:\n"
        f"    print([name for name in {('torch', 'numpy', *HEAVY)} if name in sys.modules])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"
