"""Names of settings and rows, and the order in which their values count."""

from pathlib import Path

import pytest

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.methods import METHODS
from server_app.bench.configs import (
    ROW_DIRECTORIES,
    bench_configs,
    choose_baseline,
    find_rows,
    find_settings,
    read_tuned,
    values_by_setting,
)
from server_app.launch.recipes import RECIPES
from server_app.launch.start import resolve


def _file(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_names_directories_and_paths_are_rows(tmp_path: Path) -> None:
    mine = _file(tmp_path / "mine.toml", 'method = "fedavg"\n')
    names = [path.stem for path in find_rows([str(mine), "methods"])]
    assert names[0] == "mine"
    assert names[1:] == sorted(path.stem for path in (RECIPES / "methods").glob("*.toml"))
    assert [path.stem for path in find_rows(["fedprox", "fedavg"])] == ["fedprox", "fedavg"]


def test_settings_are_names_or_paths(tmp_path: Path) -> None:
    mine = _file(tmp_path / "mine.toml", "lr = 0.1\n")
    assert find_settings(["avmnist", str(mine)]) == [RECIPES / "avmnist.toml", mine]


def test_what_there_is_stands_in_the_error() -> None:
    with pytest.raises(
        ConfigError, match=r"row 'fedmagic': neither a file .*fedprox.*methods, alone, ablations"
    ):
        find_rows(["fedavg", "fedmagic"])
    with pytest.raises(
        ConfigError, match=r"setting 'mnist': neither a file nor one of av-digits, .*avmnist"
    ):
        find_settings(["mnist"])


@pytest.mark.parametrize("names", [["fedavg", "methods"], ["fedavg", "fedavg"]])
def test_a_row_stands_once(names: list[str]) -> None:
    with pytest.raises(ConfigError, match="rows: 'fedavg' is there twice"):
        find_rows(names)


def test_settings_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="settings: 'avmnist' is there twice"):
        find_settings(["avmnist", str(_file(tmp_path / "avmnist.toml", ""))])


@pytest.mark.parametrize("path", find_rows(ROW_DIRECTORIES), ids=lambda path: path.stem)
def test_every_row_of_the_project_is_a_configuration(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")
    assert resolve(path, {}, [])["method"] in METHODS


def test_later_values_count(tmp_path: Path) -> None:
    """The learning rate is set by everyone, the others by all but the last one, two, three and
    four.
    """
    setting = _file(
        tmp_path / "s.toml", "lr = 1.1\nmu = 1.1\nmomentum = 0.1\nweight-decay = 1.1\nkappa = 1.1\n"
    )
    row = _file(
        tmp_path / "r.toml",
        'method = "fedcmi"\nlr = 1.2\nmu = 1.2\nmomentum = 0.2\nweight-decay = 1.2\n',
    )
    tuned = read_tuned(
        _file(
            tmp_path / "tuned.toml", "[r]\nlr = 1.3\nmu = 1.3\nmomentum = 0.3\n[other]\nlr = 9.0\n"
        )
    )
    [raw] = bench_configs(
        values_by_setting([setting]), [row], tuned, {"mu": 1.4, "lr": 1.4}, ["lr=1.5"]
    )["s"].values()
    keys = ("lr", "mu", "momentum", "weight-decay", "kappa", "gamma", "method")
    assert [raw[key] for key in keys] == [1.5, 1.4, 0.3, 1.2, 1.1, "default", "fedcmi"]


@pytest.mark.parametrize("text", ["method=fedavg", "seed=3", "run-dir=/tmp/x"])
def test_what_a_bench_decides_cannot_be_set(text: str) -> None:
    with pytest.raises(
        ConfigError, match=r"--set: '.*' must not stand here; a bench decides seed, run-dir, method"
    ):
        bench_configs(
            values_by_setting(find_settings(["av-digits"])), find_rows(["fedavg"]), {}, {}, [text]
        )


def test_nor_can_it_stand_in_a_file(tmp_path: Path) -> None:
    settings, rows = find_settings(["av-digits"]), find_rows(["fedavg"])
    with pytest.raises(ConfigError, match=r"s\.toml: 'method' must not stand here"):
        bench_configs(
            values_by_setting([_file(tmp_path / "s.toml", 'method = "fedavg"\n')]), rows, {}, {}, []
        )
    with pytest.raises(ConfigError, match=r"r\.toml: 'seed' must not stand here"):
        bench_configs(
            values_by_setting(settings),
            [_file(tmp_path / "r.toml", 'method = "fedavg"\nseed = 1\n')],
            {},
            {},
            [],
        )
    with pytest.raises(ConfigError, match=r"t\.toml, \[fedavg\]: 'seed' must not stand here"):
        read_tuned(_file(tmp_path / "t.toml", "[fedavg]\nseed = 1\n"))


def test_a_row_says_its_method(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"row .*r\.toml: must say its method"):
        bench_configs(
            values_by_setting(find_settings(["av-digits"])),
            [_file(tmp_path / "r.toml", "lr = 0.1\n")],
            {},
            {},
            [],
        )


@pytest.mark.parametrize(
    ("text", "words"),
    [("lr = 0.1\n", "'lr' must be a table"), ("[fedavg", "tuned values .*t.toml: ")],
)
def test_a_broken_tuned_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_tuned(_file(tmp_path / "t.toml", text))


def test_the_baseline_is_fedavg_or_the_first() -> None:
    assert choose_baseline(None, find_rows(["fedprox", "fedavg"])) == "fedavg"
    assert choose_baseline(None, find_rows(["fedprox", "fedcmi"])) == "fedprox"
    assert choose_baseline("fedcmi", find_rows(["fedprox", "fedcmi"])) == "fedcmi"
    with pytest.raises(
        ConfigError, match="--baseline 'fedavg': not one of the rows, fedprox, fedcmi"
    ):
        choose_baseline("fedavg", find_rows(["fedprox", "fedcmi"]))
