"""Means and deviations of a federation.

Sums leave the nodes, and give what all of their values together would.
"""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import commands
import numpy as np
import pytest

from client_app.app import app as client_app
from data_prep.errors import PrepError
from data_prep.sets.federation import describe, read_federation
from data_prep.sets.sums import FEWEST, read_sums, sum_up
from fedcmi_flwr.data.schema import read_spec
from fedcmi_flwr.inference.predictor import Predictor
from fedcmi_flwr.run_config import read_run_config
from fedcmi_flwr.simulation.local_grid import LocalGrid
from server_app.app import run as run_server
from server_app.launch.start import resolve
from server_app.run.directory import read_metrics

HEADER = ("id", "label", "split", "age", "bmi", "sex", "gait", "pulse")
KINDS = ("lab=table:age,sex,bmi", "gait=series", "vital=vector:pulse")
Rows = list[dict[str, str]]


def people(raw: Path, split: str, count: int, age: float, seed: int) -> Rows:
    """Write people of an age, one in three without it, and their gaits; return their rows."""
    raw.mkdir()
    rng, rows = np.random.default_rng(seed), []
    for number in range(count):
        name = f"{number}.npy"
        np.save(raw / name, rng.normal(age, 3, (6, 2)) * (1, 100))
        numbers = [f"{each:.3f}" for each in rng.normal((age, 25, 70 + age), (5, 2, 1))]
        cells = [
            "" if number % 3 == 2 else numbers[0],
            numbers[1],
            "fm"[number % 2],
            name,
            numbers[2],
        ]
        rows.append(
            dict(
                zip(HEADER, [f"p{number}", ("ill", "well")[number % 2], split, *cells], strict=True)
            )
        )
    with (raw / "samples.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, HEADER)
        table.writeheader()
        table.writerows(rows)
    return rows


def prepared(raw: Path, out: Path, *options: str) -> Path:
    paths = [
        "--manifest",
        str(raw / "samples.csv"),
        "--raw",
        str(raw),
        "--out",
        str(out),
        "--workers",
        "1",
    ]
    done = commands.fedcmi("prep", "manifest", *paths, *options)
    assert done.exit_code == 0, done.output
    return out


def called(*arguments: str | Path) -> str:
    done = commands.fedcmi(*arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a server of young people, and two devices of older ones."""
    folder = tmp_path_factory.mktemp("sums")
    people(folder / "server", "test", 6, 30, 0)
    kinds = [part for kind in KINDS for part in ("--modality", kind)]
    prepared(folder / "server", folder / "server-data", "--for", "server", "--points", "6", *kinds)
    called("prep", "describe", folder / "server-data", "--out", folder / "first.json")
    for name, count, age in (("a", 40, 55.0), ("b", 25, 70.0)):
        people(folder / name, "train", count, age, count)
        prepared(
            folder / name,
            folder / f"{name}-data",
            "--for",
            "device",
            "--federation",
            str(folder / "first.json"),
        )
    return folder


def test_sums_of_devices_give_the_mean_and_deviation_of_all_their_values(folder: Path) -> None:
    files = []
    for name in "ab":
        files += ["--sums", folder / f"{name}.json"]
        said = called("prep", "sums", folder / f"{name}-data", "--out", folder / f"{name}.json")
        assert f"{name}.json: lab, sums of " in said
    called("prep", "describe", folder / "server-data", "--out", folder / "second.json", *files)
    found = {
        modality.name: modality for modality in read_federation(folder / "second.json").modalities
    }

    texts = [(folder / name / "samples.csv").read_text().splitlines() for name in "ab"]
    rows = [row for lines in texts for row in csv.DictReader(lines)]
    numbers = {
        column: [float(row[column]) for row in rows if row[column]]
        for column in ("age", "bmi", "pulse")
    }
    assert len(numbers["age"]) < len(numbers["bmi"])
    means, stds = (
        {column: float(f(each)) for column, each in numbers.items()} for f in (np.mean, np.std)
    )
    assert found["lab"].mean == pytest.approx((means["age"], 0, 0, 0, 0, means["bmi"], 0))
    assert found["lab"].std == pytest.approx((stds["age"], 1, 1, 1, 1, stds["bmi"], 1), rel=1e-6)
    assert (found["vital"].mean, found["vital"].std) == pytest.approx(
        (means["pulse"], stds["pulse"]), rel=1e-6
    )
    gaits = np.concatenate(
        [np.load(folder / f"{name}-data" / "train" / "gait.npy") for name in "ab"]
    )
    np.testing.assert_allclose(found["gait"].mean, gaits.mean((0, 2), dtype=float), rtol=1e-6)
    np.testing.assert_allclose(found["gait"].std, gaits.std((0, 2), dtype=float), rtol=1e-6)

    options = ["--for", "server", "--federation", str(folder / "second.json")]
    again = prepared(folder / "server", folder / "again", *options)
    assert read_spec(again).modalities == tuple(found.values())
    ageless = np.load(again / "test" / "lab.npy")[2]
    assert ageless[:2].tolist() == [np.float32(found["lab"].mean[0]), 1]  # type: ignore[index]  # one a feature


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_a_run_normalises_by_the_sums(folder: Path, tmp_path: Path) -> None:
    """Devices that were prepared by the first description take part.

    The model is told the second one's numbers.
    """
    files = []
    for name in "ab":
        called("prep", "sums", folder / f"{name}-data", "--out", tmp_path / f"{name}.json")
        files += ["--sums", tmp_path / f"{name}.json"]
    called("prep", "describe", folder / "server-data", "--out", tmp_path / "second.json", *files)
    described = read_federation(tmp_path / "second.json").modalities
    options = ["--for", "server", "--federation", str(tmp_path / "second.json")]
    server = prepared(folder / "server", tmp_path / "server-data", *options)

    small = ["fraction-train=1.0", "local-epochs=1", "batch-size=4", "embedding-dim=8", "data-set=manifest",
             "encoder=lab=mlp gait=gru vital=linear"]  # fmt: skip
    raw = resolve(None, {"data": str(server), "num-server-rounds": 2}, small)
    raw |= {"run-dir": str(tmp_path / "run")}
    own = {"modalities": "lab+gait+vital"}
    nodes = [
        {**own, "partition-id": place, "data": str(folder / f"{name}-data")}
        for place, name in enumerate("ab")
    ]
    run_server(read_run_config(raw), LocalGrid(client_app, nodes, raw), lambda: None, False)
    records = read_metrics(tmp_path / "run")
    assert [record["refused"] for record in records[1:]] == [[], []]
    assert Predictor.load(tmp_path / "run", "cpu").inputs == described


def test_the_order_of_the_files_changes_no_bit(folder: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.json" for name in "ab"]
    for name, file in zip("ab", files, strict=True):
        called("prep", "sums", folder / f"{name}-data", "--out", file)
    first = describe(folder / "server-data", tmp_path / "x.json", files)
    second = describe(folder / "server-data", tmp_path / "x.json", files[::-1])
    assert first.modalities == second.modalities
    assert first.recipes == second.recipes


def test_only_sums_leave_a_device_and_none_of_few_values(folder: Path, tmp_path: Path) -> None:
    """A file has no categories, no samples, and nothing of a column that hardly anybody has."""
    rows = people(tmp_path / "raw", "train", 7, 60, 9)  # five of seven have an age
    path = tmp_path / "raw" / "samples.csv"
    path.write_text(path.read_text().replace(rows[0]["age"], ""))
    options = ["--for", "device", "--federation", str(folder / "first.json")]
    out = prepared(tmp_path / "raw", tmp_path / "out", *options)
    said = called("prep", "sums", out, "--out", tmp_path / "sums.json")
    assert f"lab: 1 features with fewer than {FEWEST} values are left out" in said
    lab = read_sums(tmp_path / "sums.json")["lab"]
    assert (lab.count, lab.total[0], lab.squares[0]) == ((0, 7), 0, 0)
    content = json.loads((tmp_path / "sums.json").read_text())
    assert {key for sums in content["modalities"].values() for key in sums} == {
        "mean", "std", "count", "total", "squares"
    }  # fmt: skip

    merged = describe(folder / "server-data", tmp_path / "x.json", [tmp_path / "sums.json"])
    before = read_spec(folder / "server-data").modalities[0]
    assert merged.modalities[0].mean[0] == before.mean[0]  # type: ignore[index]  # one a feature
    assert merged.modalities[0].mean[5] != before.mean[5]  # type: ignore[index]


def _others(content: dict) -> None:
    content["modalities"]["lab"]["mean"][0] += 1


def _few(content: dict) -> None:
    content["modalities"]["lab"]["count"][0] = 2


def _short(content: dict) -> None:
    content["modalities"]["lab"]["total"].pop()


def _version(content: dict) -> None:
    content["sums_version"] = 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            _others,
            r"sums\.json: 'lab' was standardised by means .* on the device, means .* on the server; prepare",
        ),
        (_few, f"not a device's sums .*of no or of {FEWEST} and more values"),
        (_short, "not a device's sums"),
        (_version, "version 2, this release reads 1"),
    ],
)
def test_sums_that_do_not_fit(
    folder: Path, tmp_path: Path, change: Callable[[dict], None], words: str
) -> None:
    called("prep", "sums", folder / "a-data", "--out", tmp_path / "sums.json")
    content = json.loads((tmp_path / "sums.json").read_text())
    change(content)
    (tmp_path / "sums.json").write_text(json.dumps(content))
    with pytest.raises(PrepError, match=words):
        describe(folder / "server-data", tmp_path / "x.json", [tmp_path / "sums.json"])
    assert not (tmp_path / "x.json").exists()


def test_nothing_to_sum_up(folder: Path, tmp_path: Path, av_digits_dir: Path) -> None:
    with pytest.raises(PrepError, match="no modality is standardised by what is measured"):
        sum_up(av_digits_dir)
    done = commands.fedcmi("prep", "sums", folder / "server-data", "--out", tmp_path / "x.json")
    assert (done.exit_code, "no split 'train'" in done.stderr) == (1, True)
    with pytest.raises(FileNotFoundError, match="expected what `fedcmi prep sums` wrote"):
        describe(folder / "server-data", tmp_path / "x.json", [tmp_path / "none.json"])


def test_what_never_changes_is_fed_as_0(folder: Path, tmp_path: Path) -> None:
    """Everybody has one pulse here and another one on the server.

    A deviation of 0 would be divided by.
    """
    shutil.copytree(folder / "a", tmp_path / "raw")
    lines = (tmp_path / "raw" / "samples.csv").read_text().splitlines()
    lines[1:] = [f"{line.rpartition(',')[0]},0.3" for line in lines[1:]]
    (tmp_path / "raw" / "samples.csv").write_text("\n".join(lines) + "\n")
    options = ["--for", "device", "--federation", str(folder / "first.json")]
    out = prepared(tmp_path / "raw", tmp_path / "out", *options)
    called("prep", "sums", out, "--out", tmp_path / "sums.json")
    vital = describe(
        folder / "server-data", tmp_path / "x.json", [tmp_path / "sums.json"]
    ).modalities[2]
    assert (vital.mean, vital.std) == (pytest.approx(0.3, rel=1e-5), 1.0)
