"""A bench as a user runs it: killed, gone on with, failing, and refused.

And what its directory is for.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import commands
import pytest
from typer.testing import Result

from server_app.bench import experiments, jobs
from server_app.bench.configs import (
    RunConfigs,
    bench_configs,
    find_rows,
    find_settings,
    values_by_setting,
)

SMALL = [
    "--num-nodes",
    "4",
    "--seeds",
    "2",
    "--set",
    "num-server-rounds=2",
    "--set",
    "local-epochs=1",
]
ROWS = ("fedavg", "fedprox")


def _configs(*rows: str, data: Path | None = None, **changes: object) -> RunConfigs:
    assignments = [f"{key.replace('_', '-')}={value}" for key, value in changes.items()]
    options = {"data": str(data) if data else None}
    return bench_configs(
        values_by_setting(find_settings(["av-digits"])), find_rows(rows), {}, options, assignments
    )


def _arguments(data: Path, out: Path, *more: str) -> list[str]:
    return [
        "bench",
        "av-digits",
        "--methods",
        ",".join(ROWS),
        "--data",
        str(data),
        "--out",
        str(out),
        *SMALL,
        *more,
    ]


def _bench(data: Path, out: Path, *more: str) -> Result:
    return commands.fedcmi(*_arguments(data, out, *more))


def _command(data: Path, out: Path, *more: str) -> list[str]:
    """Return what begins a bench in a process of its own, which can be killed."""
    return [sys.executable, "-m", "server_app.commands.main", *_arguments(data, out, *more)]


def _wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)


def _at_work_in(out: Path) -> set[int]:
    """Return the processes that have a file below ``out`` open: the runs."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if str(link.readlink()).startswith(str(out)):
                found.add(int(link.parts[2]))
        except OSError:  # it ended, or it is not ours
            continue
    return found


def _gone(out: Path) -> bool:
    """Return whether no process has a file below ``out`` open.

    What was told to end may take a moment.
    """
    deadline = time.monotonic() + 20
    while _at_work_in(out) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not _at_work_in(out)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, av_digits_dir: Path) -> Path:
    """Return the directory of a bench that nobody interrupted."""
    out = tmp_path_factory.mktemp("bench") / "out"
    done = _bench(av_digits_dir, out)
    assert done.exit_code == 0, done.output
    return out


def test_plan_goes_seed_by_seed(tmp_path: Path) -> None:
    planned = experiments.plan(_configs("fedavg", "fedcmi"), 2, 4, tmp_path / "out")
    assert [(e.row, e.seed) for e in planned] == [
        ("fedavg", 0),
        ("fedcmi", 0),
        ("fedavg", 1),
        ("fedcmi", 1),
    ]
    assert planned[3].run_dir == tmp_path / "out" / "av-digits" / "fedcmi" / "seed1"
    assert (planned[3].config["seed"], planned[3].config["run-dir"]) == (1, str(planned[3].run_dir))


def test_a_runs_card_has_the_command_that_its_log_begins_with(uninterrupted: Path) -> None:
    run = uninterrupted / "av-digits" / "fedavg" / "seed1"
    command = (run / "log.txt").read_text().splitlines()[0].removeprefix("again: ")
    assert command.startswith("fedcmi run --engine in-process --num-nodes 4 --set ")
    assert command in (run / "MODEL_CARD.md").read_text().splitlines()


def test_killed_and_called_again_it_ends_as_if_nothing_had_happened(
    uninterrupted: Path, tmp_path: Path, av_digits_dir: Path
) -> None:
    """Kill -9 while the second run is at work: it ends too, and the first is not repeated."""
    out = tmp_path / "out"
    first, second = (out / "av-digits" / row / "seed0" for row in ROWS)
    killed = subprocess.Popen(
        _command(av_digits_dir, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    _wait_for(second / "metrics.jsonl", killed)
    assert _at_work_in(second)
    killed.kill()
    killed.communicate()
    assert _gone(out)
    assert (first / "summary.md").exists()
    assert not (second / "summary.md").exists()
    before = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    done = _bench(av_digits_dir, out)
    assert done.exit_code == 0, done.output
    assert "1 of 4 runs are finished, 3 to do" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in first.iterdir()} == before
    for name in ("results.csv", "table.md"):
        assert (out / name).read_bytes() == (uninterrupted / name).read_bytes()


def test_a_polite_kill_ends_the_runs(tmp_path: Path, av_digits_dir: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        _command(av_digits_dir, out, "--jobs", "2"), stderr=subprocess.PIPE, text=True
    )
    _wait_for(out / "av-digits" / "fedavg" / "seed0" / "log.txt", process)
    process.terminate()
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert _gone(out)


def test_two_benches_do_not_share_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "PATIENCE", 0.2)
    refused = pytest.raises(jobs.BusyError, match="another process is at work there; wait")
    with jobs.alone_in(tmp_path / "out"), refused, jobs.alone_in(tmp_path / "out"):
        pass
    with jobs.alone_in(tmp_path / "out"):
        pass


def test_a_run_that_outlives_its_bench_is_waited_for(tmp_path: Path) -> None:
    """A process holds the directory as a run does, and ends when it is told to, while we wait for
    it already.
    """
    code = (
        "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_SH); "
        "print(flush=True); "
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code + "input()", tmp_path], stdin=-1, stdout=-1, text=True
    )
    assert run.stdout is not None
    run.stdout.readline()
    told = threading.Event()
    timer = threading.Timer(0.3, lambda: (told.set(), run.communicate("\n")))
    timer.start()
    with jobs.alone_in(tmp_path):
        assert told.is_set()
    timer.join()
    assert run.returncode == 0


def test_a_run_that_is_killed_is_named_and_the_others_go_on(
    tmp_path: Path, av_digits_dir: Path
) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(
        _command(av_digits_dir, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    first = out / "av-digits" / "fedavg" / "seed0"
    _wait_for(first / "metrics.jsonl", process)
    for run in _at_work_in(first) - {process.pid}:
        os.kill(run, signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "1/4 av-digits fedavg seed 0: FAILED: killed by SIGKILL" in stdout
    assert f"failed: {first}" in stderr
    assert len(list(out.rglob("summary.md"))) == 3


def test_a_run_that_raises_is_named_and_the_others_go_on(
    tmp_path: Path, av_digits_dir: Path
) -> None:
    """At a learning rate of 1e9 training diverges; the other row's run is not touched by it."""
    calm = _configs("fedavg", data=av_digits_dir, num_server_rounds=1, local_epochs=1)["av-digits"]
    wild = _configs("fedcmi", data=av_digits_dir, num_server_rounds=1, local_epochs=1, lr=1e9)[
        "av-digits"
    ]
    planned = experiments.plan({"av-digits": {**wild, **calm}}, 1, 4, tmp_path)
    lines: list[str] = []
    assert experiments.run_all(planned, 2, False, lines.append) == [planned[0]]
    assert planned[1].finished
    [line] = [line for line in lines if "FAILED" in line]
    assert (
        "av-digits fedcmi seed 0: FAILED: RoundFailedError: round 1: none of 2 replies can be used"
        in line
    )
    assert "training diverged" in (planned[0].run_dir / "log.txt").read_text()


def test_the_log_says_how_to_repeat_the_run(uninterrupted: Path, tmp_path: Path) -> None:
    run = uninterrupted / "av-digits" / "fedprox" / "seed1"
    log = (run / "log.txt").read_text(encoding="utf-8")
    command = log.splitlines()[0].removeprefix("again: ")
    commands.line(f"{command} --run-dir {tmp_path / 'again'}")

    def accuracies(directory: Path) -> list[str]:
        return re.findall(
            r'"accuracy": {.*?}', (directory / "metrics.jsonl").read_text(encoding="utf-8")
        )

    assert len(accuracies(run)) == 3
    assert accuracies(tmp_path / "again") == accuracies(run)
    assert not list(run.glob("*.png"))


def _finish(out: Path, *rows: str) -> None:
    """Leave what a finished run of each row leaves last."""
    for row in rows:
        run = out / "av-digits" / row / "seed0"
        run.mkdir(parents=True)
        (run / "summary.md").write_text("finished")


def test_a_configuration_without_a_finished_run_binds_nobody(tmp_path: Path) -> None:
    experiments.reserve(tmp_path, 1, _configs("fedavg", lr=7.0))
    experiments.reserve(tmp_path, 4, _configs("fedavg"))
    _finish(tmp_path, "fedavg")
    with pytest.raises(
        ValueError,
        match=r"num-nodes is 4 there and 1 here.* fedavg: lr is 0\.05 there and 7\.0 here",
    ):
        experiments.reserve(tmp_path, 1, _configs("fedavg", lr=7.0))


def test_a_bench_directory_keeps_to_one_configuration(tmp_path: Path) -> None:
    experiments.reserve(tmp_path, 4, _configs("fedavg"))
    _finish(tmp_path, "fedavg")
    with pytest.raises(
        ValueError, match=r"av-digits fedavg: lr is 0\.05 there and 0\.1 here .*bench\.json"
    ):
        experiments.reserve(tmp_path, 4, _configs("fedavg", lr=0.1))
    with pytest.raises(ValueError, match="num-nodes is 4 there and 5 here"):
        experiments.reserve(tmp_path, 5, _configs("fedavg"))


def test_a_bench_directory_may_grow(tmp_path: Path) -> None:
    """What was there before keeps to its configuration, also after a call without it."""
    experiments.reserve(tmp_path, 4, _configs("fedavg"))
    _finish(tmp_path, "fedavg")
    experiments.reserve(tmp_path, 4, _configs("fedprox"))
    experiments.reserve(tmp_path, 4, _configs("fedprox", "fedavg"))
    with pytest.raises(ValueError, match=r"fedavg: lr is"):
        experiments.reserve(tmp_path, 4, _configs("fedavg", lr=0.1))


def test_another_default_of_a_method_is_another_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiments.reserve(tmp_path, 4, _configs("fedprox"))
    _finish(tmp_path, "fedprox")
    monkeypatch.setattr(experiments, "hyperparameters", lambda method: {"mu": 7.0})
    with pytest.raises(ValueError, match=r"fedprox: .*mu is 1\.0 there and 7\.0 here"):
        experiments.reserve(tmp_path, 4, _configs("fedprox"))


def test_another_programs_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text('{"arguments": [], "settings": {}}')
    with pytest.raises(ValueError, match=r"bench\.json: not a record of this version's benches"):
        experiments.reserve(tmp_path, 4, _configs("fedavg"))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--set", "seed=3"], "a bench decides seed, run-dir, method itself"),
        (["--set", "lr=0.1"], "lr is 0.05 there and 0.1 here"),
        (["--baseline", "fedcmi"], "--baseline 'fedcmi': not one of the rows"),
    ],
)
def test_the_command_refuses_what_would_spoil_a_table(
    tmp_path: Path, av_digits_dir: Path, more: list[str], words: str
) -> None:
    """The directory is claimed for a configuration without the assignment."""
    out = tmp_path / "out"
    configs = _configs(*ROWS, data=av_digits_dir, num_server_rounds=2, local_epochs=1)
    experiments.reserve(out, 4, configs)
    _finish(out, "fedavg")
    done = _bench(av_digits_dir, out, *more)
    assert done.exit_code == 1
    assert words in done.stderr
    assert sorted(path.name for path in out.glob("*/*/seed*")) == ["seed0"], "a run was started"
    assert not (out / "table.md").exists()
