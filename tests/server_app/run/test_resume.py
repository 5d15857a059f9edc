"""Runs that go on in another process: the files of an uninterrupted run, or a reason why not."""

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
from safetensors import safe_open

from client_app.app import app as client_app
from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.methods import METHODS
from fedcmi_flwr.models.file import CheckpointError
from server_app.launch.start import resolve, run_in_process
from server_app.run import resume
from server_app.run.checkpoint import CHECKPOINTS, newest_checkpoint, stored_checkpoints
from server_app.run.directory import RunDirectoryError, read_metrics
from server_app.run.resume import RunFinishedError, alone_in_run

NODES = 6
LIGHT = {"num-server-rounds": 6, "local-epochs": 1, "batch-size": 8, "embedding-dim": 4, "multimodal-ratio": 0.5,
         "fraction-train": 0.67, "min-partition-size": 2, "device": "cpu", "lr-decay-start": 2}  # fmt: skip
ADAM = {"server-optimizer": "fedadam"}
CASES = {
    **{name: {"method": name} for name in METHODS},
    **{
        name: {"method": "fedavg", "server-optimizer": name}
        for name in ("fedavgm", "fedadam", "fedyogi")
    },
    "averaging": {"method": "fedavg", "averaging": 0.7},
    "evaluation on nodes": {
        "method": "fedavg",
        "averaging": 0.7,
        "fraction-evaluate": 0.5,
        "personal-epochs": 1,
    },
    "checkpoints every second round": {"method": "scaffold", "checkpoint-every": 2, **ADAM},
    "compressed updates": {"method": "fedcmi-plus", "update-compression": "top-k"},
    "one checkpoint": {"method": "moon", "checkpoint-keep": 1, **ADAM},
}


Whole = Callable[[str], dict[str, Any]]
"""Case -> what :func:`left` returns of its uninterrupted run."""


class RoundsAreOverError(Exception):
    """Ends a run as a test wants it."""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    present = {name: np.ones(120, dtype=bool) for name in ("audio", "visual")}
    return oracle.prepare(tmp_path_factory.mktemp("resume") / "toy", present)


def config(directory: Path, data: Path, **changes: Any) -> dict[str, Any]:
    raw = resolve(None, {**LIGHT, "data": str(data), "run-dir": str(directory), **changes}, [])
    return {**raw, "node-memory": "run-dir"}


def run(raw: Mapping[str, Any], until: int | None = None) -> list[str]:
    """Run, or go on; end it when round ``until`` is shown. Return what was shown."""
    lines: list[str] = []

    def show(line: str) -> None:
        lines.append(line)
        if line.startswith(f"round {until}/"):
            raise RoundsAreOverError

    if until is None:
        run_in_process(raw, NODES, client_app, show, plots=False)
    else:
        with pytest.raises(RoundsAreOverError):
            run_in_process(raw, NODES, client_app, show, plots=False)
    return lines


def left(directory: Path) -> dict[str, Any]:
    """Return what a run left, apart from its seconds, its own path and what is drawn or written of
    these.
    """
    with safe_open(directory / "model.safetensors", framework="numpy") as file:
        notes = {
            key: value.replace(str(directory), "RUN") for key, value in file.metadata().items()
        }
        arrays = {
            name: (a.dtype, a.shape, a.tobytes())
            for name in file.keys()  # noqa: SIM118
            for a in [file.get_tensor(name)]
        }
    return {
        "names": {path.name for path in directory.iterdir()},
        "config": (directory / "config.json")
        .read_text(encoding="utf-8")
        .replace(str(directory), "RUN"),
        "metrics": [oracle.untimed(record) for record in read_metrics(directory)],
        "notes": notes,
        "arrays": arrays,
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, toy: Path) -> Whole:
    """Return what says what an uninterrupted run of a case leaves; each is run once."""

    @cache
    def of(case: str) -> dict[str, Any]:
        directory = tmp_path_factory.mktemp("whole") / "run"
        run(config(directory, toy, **CASES[case]))
        return left(directory)

    return of


@pytest.mark.parametrize("case", CASES)
def test_three_and_three_rounds_are_six(tmp_path: Path, toy: Path, whole: Whole, case: str) -> None:
    parts = config(tmp_path / "parts", toy, **CASES[case])
    run(parts, until=3)
    assert (tmp_path / "parts" / CHECKPOINTS).is_dir()
    lines = run({**parts, "resume": True})
    every = int(parts["checkpoint-every"])
    assert [line.split(" |")[0] for line in lines[1:]] == [
        f"round {t}/6" for t in range(3 // every * every + 1, 7)
    ]
    assert left(tmp_path / "parts") == whole(case)
    assert [record["round"] for record in read_metrics(tmp_path / "parts")] == [0, 1, 2, 3, 4, 5, 6]
    assert sorted(path.name for path in (tmp_path / "parts").iterdir() if path.is_dir()) in (
        ["checkpoints"],
        ["checkpoints", "node-memory"],
    )


def test_what_is_restored_matters(tmp_path: Path, toy: Path, whole: Whole) -> None:
    """Without the node's memory, SCAFFOLD and MOON end elsewhere.

    The test above would see that it is missing.
    """
    for method in ("scaffold", "moon"):
        parts = config(tmp_path / method, toy, method=method)
        run(parts, until=3)
        shutil.rmtree(tmp_path / method / "node-memory")
        run({**parts, "resume": True})
        assert left(tmp_path / method) != whole(method)


def test_scaffold_begins_anew_where_nodes_forgot(tmp_path: Path, toy: Path) -> None:
    """The server's c is the mean of the c_k.

    When these are zeros again, round 4 sends no c, as round 1 did.
    """
    raw = {**config(tmp_path / "run", toy, method="scaffold"), "node-memory": "context"}
    run(raw, until=3)
    assert newest_checkpoint(tmp_path / "run").state.method
    sent = read_metrics(tmp_path / "run")
    run({**raw, "resume": True}, until=4)
    again = read_metrics(tmp_path / "run")[4]
    groups = {name: len(names) for name, names in again["nodes"].items()}
    first = {len(names): sent[1]["bytes_down"][name] for name, names in sent[1]["nodes"].items()}
    later = {len(names): sent[3]["bytes_down"][name] for name, names in sent[3]["nodes"].items()}
    for name, size in groups.items():
        assert again["bytes_down"][name] == pytest.approx(first[size], rel=0.02)
        assert again["bytes_down"][name] < 0.8 * later[size]


def test_a_run_that_only_lacked_its_summary_gets_it(
    tmp_path: Path, toy: Path, whole: Whole
) -> None:
    parts = config(tmp_path / "parts", toy, method="fedcmi-plus")
    run(parts, until=6)
    assert run({**parts, "resume": True})[1:] == []
    assert left(tmp_path / "parts") == whole("fedcmi-plus")


def test_checkpoints_are_as_many_as_asked_for(tmp_path: Path, toy: Path) -> None:
    run(config(tmp_path / "run", toy, **{"checkpoint-keep": 3, "method": "moon"}), until=5)
    names = [path.name for path in stored_checkpoints(tmp_path / "run" / CHECKPOINTS)]
    assert names == ["round-000003", "round-000004", "round-000005"]
    for own in (tmp_path / "run" / "node-memory").iterdir():
        # The last turn up to round 3, and those after it
        rounds = sorted(int(path.stem.removeprefix("round-")) for path in own.iterdir())
        assert len([t for t in rounds if t <= 3]) <= 1


def test_a_broken_newest_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, toy: Path, whole: Whole, caplog: pytest.LogCaptureFixture
) -> None:
    parts = config(tmp_path / "parts", toy, method="scaffold")
    run(parts, until=4)
    broken = tmp_path / "parts" / CHECKPOINTS / "round-000004" / "arrays.safetensors"
    content = bytearray(broken.read_bytes())
    content[-1] ^= 1
    broken.write_bytes(content)
    with caplog.at_level(logging.WARNING, "flwr.fedcmi"):
        logging.getLogger("flwr").propagate = True
        try:
            lines = run({**parts, "resume": True})
        finally:
            logging.getLogger("flwr").propagate = False
    assert f"{broken.parent} is broken: arrays.safetensors differs from its checksum" in caplog.text
    assert lines[1].startswith("round 4/6")
    assert left(tmp_path / "parts") == whole("scaffold")


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory, toy: Path) -> Path:
    """Return a run that ended after its second of six rounds."""
    directory = tmp_path_factory.mktemp("unfinished") / "run"
    run(config(directory, toy), until=2)
    return directory


def raw_of(directory: Path) -> dict[str, Any]:
    return {**newest_checkpoint(directory).run_config, "run-dir": str(directory), "resume": True}


@pytest.mark.parametrize(
    ("key", "value", "had"),
    [("lr", 0.01, 0.05), ("seed", 1, 0), ("num-server-rounds", 5, 6), ("method", "moon", "fedcmi-plus"),
     ("checkpoint-every", 2, 1), ("node-memory", "context", "run-dir")],
)  # fmt: skip
def test_another_value_of_a_key_is_refused(
    unfinished: Path, key: str, value: object, had: object
) -> None:
    before = (unfinished / "metrics.jsonl").read_bytes()
    with pytest.raises(
        ConfigError,
        match=f"{key} = {value!r}: the run in {unfinished} has {had!r}.*start a new run",
    ):
        run({**raw_of(unfinished), key: value})
    assert (unfinished / "metrics.jsonl").read_bytes() == before


def test_a_moved_run_goes_on(tmp_path: Path, unfinished: Path) -> None:
    shutil.copytree(unfinished, tmp_path / "moved")
    assert run(raw_of(tmp_path / "moved"), until=3)[1].startswith("round 3/6")


def test_a_torn_last_line_does_not_matter(tmp_path: Path, unfinished: Path) -> None:
    shutil.copytree(unfinished, tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"round": 3, "seco')
    assert [record["round"] for record in read_metrics(tmp_path / "run")] == [0, 1, 2]
    run(raw_of(tmp_path / "run"), until=3)
    assert [record["round"] for record in read_metrics(tmp_path / "run")] == [0, 1, 2, 3]


def test_metrics_without_a_round_are_refused(tmp_path: Path, unfinished: Path) -> None:
    shutil.copytree(unfinished, tmp_path / "run")
    lines = (
        (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    )
    (tmp_path / "run" / "metrics.jsonl").write_text(lines[0] + lines[2], encoding="utf-8")
    with pytest.raises(
        RunDirectoryError, match=r"metrics\.jsonl: does not hold each of the rounds 0 to 2"
    ):
        run(raw_of(tmp_path / "run"))


def test_other_versions_are_named(
    tmp_path: Path, unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(unfinished, tmp_path / "run")
    warnings: list[str] = []
    monkeypatch.setattr("server_app.run.resume.package_versions", lambda: {"flwr": "9.9"})
    monkeypatch.setattr(
        "server_app.run.resume.logger.warning", lambda text, *values: warnings.append(text % values)
    )
    run(raw_of(tmp_path / "run"), until=3)
    had = newest_checkpoint(unfinished).versions["flwr"]
    assert warnings[0] == f"flwr was {had} when the run began and is 9.9"


def test_no_checkpoint_no_resume(tmp_path: Path, toy: Path) -> None:
    raw = {**config(tmp_path / "run", toy, **{"checkpoint-every": 0}), "node-memory": "context"}
    run(raw, until=2)
    assert {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()} == set()
    with pytest.raises(
        CheckpointError, match=r"run/checkpoints: no checkpoint to go on from, there is none"
    ):
        run({**raw, "resume": True})


def test_a_directory_without_a_run_is_left_alone(tmp_path: Path, toy: Path) -> None:
    with pytest.raises(
        RunDirectoryError, match=r"holds no run \(no metrics\.jsonl\) that could go on"
    ):
        run({**config(tmp_path / "run", toy), "resume": True})
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_said_to_be_finished(tmp_path: Path, toy: Path) -> None:
    raw = config(tmp_path / "run", toy, **{"num-server-rounds": 1})
    run(raw)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RunFinishedError, match=r"run: this run is finished, see its summary\.md"):
        run({**raw, "resume": True})
    assert {
        path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()
    } == before


def test_two_processes_do_not_write_one_run(
    unfinished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "PATIENCE", 0.0)
    with (
        alone_in_run(unfinished),
        pytest.raises(RunDirectoryError, match="another process still writes this run"),
        alone_in_run(unfinished),
    ):
        pass
    with alone_in_run(unfinished):  # it is free again
        pass


def test_nothing_is_pickled(unfinished: Path) -> None:
    files = [path for path in unfinished.rglob("*") if path.is_file() and path.suffix != ".png"]
    for path in files:
        content = path.read_bytes()
        if path.suffix == ".safetensors":
            assert json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        else:
            content.decode()
            assert path.name in ("SHA256SUMS", "metrics.jsonl", "error.txt") or json.loads(content)
    assert {path.name for path in files} >= {"SHA256SUMS", "state.json", "arrays.safetensors"}
