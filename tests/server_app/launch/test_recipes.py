"""A recipe is found by name from anywhere, and trains on the data set that it names or not
at all.
"""

from pathlib import Path

import commands
import kinds
import pytest

from fedcmi_flwr.config.fields import ConfigError
from server_app.bench.configs import find_rows
from server_app.launch.recipes import RECIPES, find_recipe
from server_app.launch.start import read_recipe

ROWS = {*find_rows(["methods", "alone", "ablations"])}
SETTINGS = [path for path in sorted(RECIPES.rglob("*.toml")) if path not in ROWS]
SETTINGS = [path for path in SETTINGS if path.parent.name not in ("suites", "tuned")]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, which holds a prepared directory ``other`` and no recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDCMI_CACHE", str(tmp_path / "cache"))
    kinds.prepare(tmp_path / "other", kinds.SPECTROGRAM, kinds.IMAGE)
    return tmp_path


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.stem)
def test_every_setting_names_its_data_set(path: Path) -> None:
    recipe = read_recipe(path)
    if path.parent.name == "paired":
        assert recipe["data-set"] == "npz"
        assert recipe["modalities"]
    else:
        assert str(recipe["data-set"]) in path.stem


def test_a_file_or_a_name(elsewhere: Path) -> None:
    mine = elsewhere / "cremad"
    assert find_recipe("cremad") == RECIPES / "cremad.toml"
    assert find_recipe("paired/mfeat") == RECIPES / "paired" / "mfeat.toml"
    mine.write_text("lr = 0.1\n")
    assert find_recipe("cremad") == Path("cremad")
    with pytest.raises(
        ConfigError, match=r"'cremat': neither a file nor one of .*Did you mean 'cremad'"
    ):
        find_recipe("cremat")
    with pytest.raises(ConfigError, match="neither a file"):
        find_recipe("suites/paired")


@pytest.mark.parametrize(
    "command",
    [
        ["run", "--recipe", "avmnist", "--engine", "in-process", "--run-dir", "out"],
        ["run", "--recipe", "paired/mfeat", "--run-dir", "out"],
        ["bench", "avmnist", "--methods", "fedavg,fedcmi", "--out", "out"],
        ["tune", "cremad", "av-digits", "--out", "out"],
    ],
    ids=lambda command: " ".join(command[:3]),
)
@pytest.mark.parametrize("data", [None, "other"])
def test_other_data_or_none_are_refused_once_before_anything_runs(
    elsewhere: Path, command: list[str], data: str | None
) -> None:
    done = commands.fedcmi(*command, *(["--data", data] if data else []))
    assert done.exit_code == 1
    found = "'toy'" if data else "'av-digits'"
    assert f"holds {found}; give the directory that `fedcmi prep" in done.stderr
    assert done.stderr.count("data-set = ") == 1
    assert {path.name for path in elsewhere.iterdir()} <= {"other", "cache"}
    assert not (elsewhere / "cache").exists()


def test_who_says_so_trains_a_recipe_on_other_data(elsewhere: Path) -> None:
    small = [
        "num-server-rounds=1",
        "local-epochs=1",
        "min-partition-size=2",
        "data-set=toy",
        "fraction-train=1.0",
    ]
    sets = [part for text in small for part in ("--set", text)]
    given = [
        "--recipe",
        "avmnist",
        "--data",
        "other",
        "--num-nodes",
        "2",
        "--engine",
        "in-process",
        "--run-dir",
        "out",
    ]
    done = commands.fedcmi("run", *given, *sets)
    assert done.exit_code == 0, done.output
