"""A suite: what its file says, where its data come from, and a bench of it as a user runs it.

Which is how the command of server_app/bench/README.md is run here: the same options, with a
suite and files of its own.
"""

import json
import re
from pathlib import Path
from typing import Any

import commands
import pytest
from arrays import write_arrays
from typer.testing import CliRunner, Result

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.data.schema import read_spec
from fedcmi_flwr.models.building import encoder_names
from fedcmi_flwr.models.encoders import ENCODERS
from fedcmi_flwr.run_config import read_run_config
from server_app.bench import tuning
from server_app.bench.configs import bench_configs
from server_app.bench.suite import Suite, choose_settings, choose_suite, locate_sets, read_suite
from server_app.commands import bench
from server_app.commands.main import app

README_COMMANDS = """
fedcmi bench --suite paired --data-root ARRAYS --out runs/paired
fedcmi bench --suite paired {hydraulic,wikipedia,mfeat,leaves100,rosmap}-{skewed,half-skewed} --data-root ARRAYS --methods fedavg-with-switches,late-fusion-with-switches,fedcmi-plus,fedcmi-plus-without-distillation --jobs 2 --out runs/paired
fedcmi bench --suite paired mfeat-all --data-root ARRAYS --methods fedavg --set update-compression=int8 --out runs/mfeat-int8
"""  # noqa: E501
"""Run here on sets that are made on the spot."""
RECIPE = """
num-server-rounds = 2
local-epochs = 1
embedding-dim = 8
min-partition-size = 2
modalities = "lab+motion"
encoder = "lab=mlp motion=cnn-1d"
"""
SUITE = """
num-nodes = 3
rows = ["fedavg", "fedcmi-plus"]
baseline = "fedavg"
[mixes]
all = {}
half = { multimodal-ratio = 0.5 }
[sets]
toys = { recipe = "toys.toml" }
colours = { recipe = "toys.toml", npz = "toys", label = "y" }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with a suite, a recipe and an NPZ file.

    The cache directory is below it.
    """
    monkeypatch.setenv("FEDCMI_CACHE", str(tmp_path / "cache"))
    (tmp_path / "toys.toml").write_text(RECIPE)
    (tmp_path / "mine.toml").write_text(SUITE)
    write_arrays(tmp_path / "data" / "toys.npz")
    return tmp_path


def _said(lines: list[str]) -> list[str]:
    return [re.sub(r"-[0-9a-f]{12}", "-HASH", line) for line in lines]


def test_settings_are_sets_in_mixes(folder: Path) -> None:
    suite = read_suite(str(folder / "mine.toml"))
    names = ["toys-all", "toys-half", "colours-all", "colours-half"]
    assert list(suite.settings) == names
    assert suite.settings["colours-half"] == ("colours", "half")
    assert suite.choose([]) == names
    assert suite.choose(["*-half", "toys-all"]) == ["toys-all", "toys-half", "colours-half"]
    with pytest.raises(
        ConfigError, match=r"setting 'toys': none of the suite mine, toys-all, toys-half"
    ):
        suite.choose(["toys"])
    values = suite.values(["toys-half"], {"toys": "/data/toys"})["toys-half"]
    assert (values["multimodal-ratio"], values["data"], values["embedding-dim"]) == (
        0.5,
        "/data/toys",
        8,
    )


def test_what_is_missing_is_prepared_once_from_arrays(folder: Path) -> None:
    suite, said = read_suite(str(folder / "mine.toml")), list[str]()
    found = locate_sets(suite, ["toys", "colours"], folder / "data", said.append)
    assert _said(said) == [
        f"preparing {folder}/cache/npz/{name}-HASH from {folder}/data/toys.npz"
        for name in ("toys", "colours")
    ]
    assert read_spec(Path(found["toys"])).splits == {"train": 32, "test": 16}
    assert locate_sets(suite, ["toys", "colours"], folder / "data", said.append) == found
    assert len(said) == 2
    Path(found["toys"]).rename(folder / "data" / "toys")
    assert locate_sets(suite, ["toys"], folder / "data", said.append) == {
        "toys": str(folder / "data" / "toys")
    }
    write_arrays(folder / "data" / "toys.npz", trial=None)
    assert locate_sets(suite, ["colours"], folder / "data", said.append) != {
        "colours": found["colours"]
    }


def test_data_that_is_nowhere_is_named_before_anything_is_prepared(folder: Path) -> None:
    text = SUITE.replace('"toys" , ', "").replace('npz = "toys"', 'npz = "others"')
    (folder / "mine.toml").write_text(
        text + 'digits = { recipe = "toys.toml", data = "av-digits" }\n'
    )
    suite, said = read_suite(str(folder / "mine.toml")), list[str]()
    with pytest.raises(
        ConfigError, match=r"suite mine: no data of colours in .*/data; give --data-root DIR"
    ):
        locate_sets(suite, list(suite.sets), folder / "data", said.append)
    with pytest.raises(ConfigError, match="no data of toys in no --data-root"):
        locate_sets(suite, ["toys"], None, said.append)
    assert locate_sets(suite, ["digits"], None, said.append) == {"digits": "av-digits"}
    assert said == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("num-nodes = 3", "", "key 'num-nodes' is missing"),
        ("num-nodes = 3", "num-nodes = 3\nnodes = 4", "unknown key 'nodes'"),
        (
            'recipe = "toys.toml" }',
            'recipe = "none.toml" }',
            r"set 'toys': its recipe .*none\.toml is not there",
        ),
        ('{ recipe = "toys.toml" }', "{}", "set 'toys': key 'recipe' is missing"),
        (
            '{ recipe = "toys.toml" }',
            '{ recipe = "toys.toml", data = "x" }',
            "data = 'x' is no built-in set",
        ),
        (
            "[mixes]\nall = {}\nhalf = { multimodal-ratio = 0.5 }",
            "[mixes]",
            r"'mixes' must be a table",
        ),
        ("[mixes]", "[mixes", "mine.toml: "),
    ],
)
def test_a_suite_that_says_something_else(folder: Path, old: str, new: str, words: str) -> None:
    assert old in SUITE
    (folder / "mine.toml").write_text(SUITE.replace(old, new))
    with pytest.raises(ConfigError, match=words):
        read_suite(str(folder / "mine.toml"))


def test_unknown_suites_and_no_settings() -> None:
    with pytest.raises(ConfigError, match="suite 'none': neither a file nor one of paired"):
        read_suite("none")
    with pytest.raises(ConfigError, match="no setting: name one or more, or a --suite"):
        choose_settings([], None, None, None)


def test_what_is_not_asked_for_is_as_the_suite_says(folder: Path) -> None:
    suite = read_suite(str(folder / "mine.toml"))
    given = (folder / "data", print)
    chosen = choose_suite(suite, ["toys-*"], None, None, None, *given)
    assert ([row.stem for row in chosen.rows], chosen.baseline, chosen.num_nodes) == (
        list(suite.rows),
        "fedavg",
        3,
    )
    assert chosen.sets == {"toys-all": "toys", "toys-half": "toys"}
    other = choose_suite(suite, ["toys-all"], "fedprox,fedcmi", None, 5, *given)
    assert ([row.stem for row in other.rows], other.baseline, other.num_nodes) == (
        ["fedprox", "fedcmi"],
        "fedprox",
        5,
    )


def _configs(suite: Suite) -> dict[str, dict[str, dict[str, object]]]:
    data = dict.fromkeys(suite.sets, "/data")
    rows = choose_settings(["av-digits"], ",".join(suite.rows), None, None).rows
    return bench_configs(suite.values(list(suite.settings), data), rows, {}, {}, [])


MODALITIES = {
    "utdmhad": {"inertial": "series", "skeleton": "series", "depth": "image"},
    "hydraulic": {"pressure": "series", "flow": "series", "temperature": "series"},
    "wikipedia": {"image": "vector", "text": "vector"},
    "mfeat": {"fou": "vector", "fac": "vector"},
    "leaves100": {"view0": "vector", "view1": "vector", "view2": "vector"},
    "rosmap": {"mrna": "vector", "methylation": "vector", "mirna": "vector"},
}
"""What each set is trained on, and what it is."""


def test_the_paired_suite() -> None:
    """Six sets, both alphas, all and half multimodal; encoders that read what the sets have.

    The same rounds.
    """
    suite = read_suite("paired")
    configs = _configs(suite)
    assert (suite.num_nodes, len(configs)) == (20, 24)
    assert suite.baseline in suite.rows
    mixes = set()
    for setting, rows in configs.items():
        kinds = MODALITIES[suite.settings[setting][0]]
        for raw in rows.values():
            run = read_run_config({**raw, "seed": 0, "run-dir": ""})
            encoders = encoder_names(run.model.encoder, tuple(kinds))
            assert all(kind in ENCODERS[encoders[name]].kinds for name, kind in kinds.items())
            assert set(run.data.modalities.split("+")) <= {"", *kinds}
            assert (run.federation.num_server_rounds, run.data.partition) == (30, "dirichlet")
            mixes.add((run.data.dirichlet_alpha, run.data.multimodal_ratio))
    assert mixes == {(1.0, 1.0), (1.0, 0.5), (0.3, 1.0), (0.3, 0.5)}


def _bench(folder: Path, *more: str) -> Result:
    given = ["--data-root", folder / "data", "--out", folder / "out", "--seeds", "2", *more]
    return commands.fedcmi("bench", "--suite", folder / "mine.toml", *given)


def test_a_suite_is_run_gone_on_with_and_honest(folder: Path) -> None:
    """Half of the settings first, then all, with a run that was broken.

    Only what is missing is run.
    """
    done = _bench(folder, "*-half")
    assert done.exit_code == 0, done.output
    assert "0 of 8 runs are finished, 8 to do" in done.stdout
    text = (folder / "out" / "suite.md").read_text()
    assert "2 sets, 2 settings (toys-half, colours-half), 2 seeds" in text
    assert "Every run finished." in text
    for name in ("toys-half", "colours-half"):
        (folder / "out" / name / "fedcmi-plus" / "seed1" / "summary.md").unlink()
    failing = _bench(folder, "--set", "lr=0.07")
    assert failing.exit_code == 1
    assert "holds runs of another configuration" in failing.stderr
    done = _bench(folder)
    assert done.exit_code == 0, done.output
    assert "6 of 16 runs are finished, 10 to do" in done.stdout
    text = (folder / "out" / "suite.md").read_text()
    assert "2 sets, 4 settings" in text
    assert re.search(r"\| fedcmi-plus \| .* ± .* \| .* ± .* \| \d+\.\d \| \d\.\d \|", text)
    record = json.loads((folder / "out" / "bench.json").read_text())
    assert record["settings"].keys() == {"toys-all", "toys-half", "colours-all", "colours-half"}


def test_one_setting_and_one_row_with_another_key(folder: Path) -> None:
    given = ["toys-all", "--methods", "fedavg", "--set", "update-compression=int8"]
    done = _bench(folder, *given)
    assert done.exit_code == 0, done.output
    assert "0 of 2 runs are finished, 2 to do" in done.stdout
    (run,) = (folder / "out" / "toys-all").glob("*/seed0")
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert sum(last["bytes_up"].values()) < 0.6 * sum(last["bytes_down"].values())


def test_a_suite_is_tuned_on_the_settings_that_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would be tuned is looked at, not run: each setting with the data of its set."""
    seen: list[Any] = []

    class Recorder:
        def __init__(self, configs: Any, seeds: int, num_nodes: int, *rest: Any) -> None:
            seen.extend([configs, seeds, num_nodes])

        def run(self) -> None:
            (folder / "tuned" / "tuned.toml").write_text("")

    monkeypatch.setattr(tuning, "Tuning", Recorder)
    # Signal handlers are pytest's here
    monkeypatch.setattr(bench, "end_with_what_was_started", lambda advice: None)
    given = [
        "--suite",
        str(folder / "mine.toml"),
        "--data-root",
        str(folder / "data"),
        "--out",
        str(folder / "tuned"),
    ]
    done = CliRunner().invoke(app, ["tune", *given, "toys-all", "colours-half"])
    assert done.exit_code == 0, done.output
    configs, seeds, num_nodes = seen
    assert (seeds, num_nodes, list(configs)) == (1, 3, ["toys-all", "colours-half"])
    for setting, rows in configs.items():
        assert list(rows) == ["fedavg", "fedcmi-plus"]
        raw = rows["fedavg"]
        assert Path(raw["data"]).name.startswith(setting.partition("-")[0])
        assert raw["validation-share"] == tuning.VALIDATION_SHARE


@pytest.mark.parametrize("command", ["bench", "tune"])
@pytest.mark.parametrize(
    "given", [["av-digits", "--data-root", "x"], ["--suite", "paired", "--data", "x"]]
)
def test_options_that_do_not_fit_are_refused(
    command: str, given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "end_with_what_was_started", lambda advice: None)
    done = CliRunner().invoke(app, [command, *given, "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "--data is for settings and --data-root for a --suite" in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()
