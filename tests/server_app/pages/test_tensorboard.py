"""TensorBoard's own reader finds in the event files what metrics.jsonl says."""

import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from server_app.pages.tensorboard import export_scalars
from server_app.run.directory import read_metrics
from server_app.run.reader import ReportError
from server_app.run.scalars import scalars


def _events(directory: Path) -> EventAccumulator:
    events = EventAccumulator(str(directory))
    events.Reload()
    return events


def test_scalars_are_those_of_the_rounds(plus_run: Path, tmp_path: Path) -> None:
    assert export_scalars(plus_run, tmp_path / "logs") == [tmp_path / "logs"]
    events, records = _events(tmp_path / "logs"), read_metrics(plus_run)
    fused = [(event.step, event.value) for event in events.Scalars("accuracy/fused")]
    assert fused == [
        (t, pytest.approx(record["accuracy"]["fused"])) for t, record in enumerate(records)
    ]
    [weak] = records[1]["measured"]["temperature"]
    first = events.Scalars(f"temperature {weak}/3")[0]
    assert (first.step, first.value) == (
        1,
        pytest.approx(records[1]["measured"]["temperature"][weak][3]),
    )
    sent = sum(
        sum(record[key].values()) for record in records for key in ("bytes_down", "bytes_up")
    )
    assert events.Scalars("cost/megabytes")[-1].value == pytest.approx(sent / 1e6)
    times = [event.wall_time for event in events.Scalars("cost/seconds")]
    assert times[3] - times[1] == pytest.approx(
        records[2]["seconds"] + records[3]["seconds"], abs=1e-3
    )


def test_what_is_null_is_left_out(plus_run: Path) -> None:
    record = {**read_metrics(plus_run)[1], "accuracy": {"fused": 0.5, "touch only": None}}
    tags = [tag for tag, _, _ in scalars(record, [str(digit) for digit in range(10)])]
    assert "accuracy/fused" in tags
    assert "accuracy/touch only" not in tags


def test_every_run_of_a_bench_has_its_directory(bench_dir: Path, tmp_path: Path) -> None:
    written = export_scalars(bench_dir, tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in written} == {
        f"small/{method}/seed{seed}" for method in ("fedavg", "fedcmi-plus") for seed in (0, 1)
    }
    assert all(_events(path).Scalars("losses/fused") for path in written)


def test_events_are_not_written_twice(fedavg_run: Path, tmp_path: Path) -> None:
    export_scalars(fedavg_run, tmp_path)
    with pytest.raises(ReportError, match=r"holds events already, .* give another directory"):
        export_scalars(fedavg_run, tmp_path)


def test_without_tensorboard_it_says_what_to_install(
    fedavg_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fedcmi-flwr\[tracking\]'"):
        export_scalars(fedavg_run, tmp_path / "logs")
    assert not (tmp_path / "logs").exists()
