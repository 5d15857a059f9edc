"""What a run leaves: config.json, metrics.jsonl, summary.md and plots, all below one directory."""

import json
import math
import os
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedcmi_flwr.atomic_files import write_atomically
from fedcmi_flwr.dominance import Dominance
from fedcmi_flwr.evaluate import Counts, is_head, summarise
from fedcmi_flwr.model_file import CARD, MODEL_FILE
from fedcmi_flwr.round_report import RoundReport
from server_app import fairness
from server_app.held_out import VALIDATION_SPLIT
from server_app.plots import plot_accuracy, plot_dominance, plot_temperature

LAST_ROUNDS = 5
"""The main figure of a run is the mean accuracy over this many last rounds."""


LAUNCH = "launch.json"
"""In a run directory: how ``fedcmi run`` or a bench started it."""
FILES = ("config.json", "metrics.jsonl", "matrix.json", MODEL_FILE, CARD)
"""What a finished run leaves beside summary.md and plots."""


class RunDirectoryError(ValueError):
    """A run directory that cannot be written to."""


def check_new(path: Path) -> None:
    """Raise RunDirectoryError if a directory already holds a run."""
    if (path / "metrics.jsonl").exists():
        raise RunDirectoryError(f"{path}: already holds a run; give another run-dir, or resume it.")


class RunDirectory:
    """The directory of one run.

    Parameters
    ----------
    path
        Where the run writes; made when missing.
    plots
        Whether :meth:`finish` draws plots.
    resumed
        Whether it holds a run that goes on.

    Raises
    ------
    RunDirectoryError
        It already holds a run that does not go on.
    """

    def __init__(self, path: Path, plots: bool = True, resumed: bool = False) -> None:
        self.path = path.absolute()
        self.plots = plots
        if not resumed:
            check_new(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "error.txt").unlink(missing_ok=True)  # of an attempt that did not get to its first round

    @property
    def metrics_path(self) -> Path:
        """One JSON object per round."""
        return self.path / "metrics.jsonl"

    @property
    def config_path(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.json"

    @property
    def account_path(self) -> Path:
        """What a run with differential privacy has spent."""
        return self.path / "privacy.json"

    @property
    def matrix_path(self) -> Path:
        """How the model decides from every subset of the modalities, and how well."""
        return self.path / "matrix.json"

    @property
    def card_path(self) -> Path:
        """What a user of the model should know."""
        return self.path / CARD

    @property
    def model_path(self) -> Path:
        """The latest global model."""
        return self.path / MODEL_FILE

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write the resolved configuration."""
        self.config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")

    def append(self, record: Mapping[str, Any]) -> None:
        """Append one round to metrics.jsonl; it is on the disk when this returns, as a checkpoint counts on it."""
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(json_ready(record), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def write_account(self, releases: Mapping[int, int]) -> None:
        """Write the privacy account, partition id -> releases; it stays as it is when a run goes on from earlier."""
        write_atomically(self.account_path, (json.dumps({"releases": releases}) + "\n").encode())

    def read_account(self) -> dict[int, int]:
        """Return what :meth:`write_account` wrote; raise RunDirectoryError where that is gone or broken."""
        try:
            releases = json.loads(self.account_path.read_bytes())["releases"]
            return {int(partition): int(count) for partition, count in releases.items()}
        except (FileNotFoundError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise RunDirectoryError(
                f"{self.account_path}: what this run with differential privacy has spent cannot be read ({error!r}). "
                "Restore the file, or start the run again with another run-dir."
            ) from error

    def rewind(self, server_round: int) -> None:
        """Keep the records up to a round and remove later ones.

        Parameters
        ----------
        server_round
            The last round to keep.

        Raises
        ------
        RunDirectoryError
            One of these rounds is missing.
        """
        lines = _whole_lines(self.path)[: server_round + 1]
        if [json.loads(line)["round"] for line in lines] != list(range(server_round + 1)):
            raise RunDirectoryError(f"{self.metrics_path}: does not hold each of the rounds 0 to {server_round}.")
        write_atomically(self.metrics_path, "".join(lines).encode())

    def write_error(self, error: Exception) -> None:
        """Write why the run failed to error.txt: the reason on the first line, then the traceback."""
        text = "".join(traceback.format_exception(error))
        (self.path / "error.txt").write_text(f"{type(error).__name__}: {error}\n\n{text}", encoding="utf-8")

    def finish(self, config: Mapping[str, Any], classes: Sequence[str], more: Sequence[str] = ()) -> None:
        """Write the plots and then, since a run with a summary is finished, summary.md from metrics.jsonl.

        Parameters
        ----------
        config
            As for :meth:`write_config`.
        classes
            Class names in index order.
        more
            Lines for the end of summary.md.
        """
        records = read_metrics(self.path)
        if self.plots:
            self._plot(records, classes)
        names = [path.name for path in sorted(self.path.glob("*.png"))]
        unfinished = self.path / "summary.part"
        unfinished.write_text(summary(records, config, names, more), encoding="utf-8")
        unfinished.replace(self.path / "summary.md")

    def _plot(self, records: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
        plot_accuracy(records, self.path / "accuracy.png")
        measured = [record for record in records if record["measured"]["dominant"]]
        if measured:
            plot_dominance(measured, classes, self.path / "dominance.png")
            plot_temperature(measured, classes, self.path / "temperature.png")


def read_metrics(directory: Path) -> list[dict[str, Any]]:
    """Return the rounds of a run directory, in order; a line that is still being written is not there yet."""
    return [json.loads(line) for line in _whole_lines(directory)]


def _whole_lines(directory: Path) -> list[str]:
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]


def round_record(server_round: int, counts: Mapping[str, Counts], report: RoundReport | None) -> dict[str, Any]:
    """Put a round's evaluation and training report into one record; ``report`` is None for round 0."""
    report = report or RoundReport(server_round, 0.0)
    return {
        "round": server_round,
        "seconds": report.seconds,
        "asking_seconds": report.asking_seconds,
        "train_seconds": {str(partition): seconds for partition, seconds in report.train_seconds.items()},
        "losses": report.losses,
        "class_statistics": {
            "probability_sum": {name: value.tolist() for name, value in report.stats.probability_sum.items()},
            "count": {name: value.tolist() for name, value in report.stats.count.items()},
        },
        "num_examples": report.num_examples,
        "examples": {str(partition): count for partition, count in report.examples.items()},
        "teacher": report.used.dominant,
        "measured": _dominance_record(report.measured),
        "accuracy": summarise(counts, lambda found: found.accuracy),
        "macro": summarise(counts, lambda found: found.macro),
        "worst_class": summarise(counts, lambda found: found.worst_class),
        "calibration_error": summarise(counts, lambda found: found.calibration_error),
        "counts": _counts_record(counts),
        "evaluated_on_nodes": _counts_record(report.evaluated),
        "evaluated_by": {str(node): _figures(report.evaluated_by[node]) for node in sorted(report.evaluated_by)},
        "known_nodes": {str(info.partition_id): list(info.modalities) for info in report.known.values()},
        "nodes": {str(info.partition_id): list(info.modalities) for info, _ in report.sent.values()},
        "owners": report.owners,
        "refused": report.refused,
        "bounded": report.bounded,
        "failed": report.failed,
        "privacy": report.privacy,
        "bytes_down": report.bytes_down,
        "bytes_up": report.bytes_up,
    }


def _counts_record(counts: Mapping[str, Counts]) -> dict[str, Any]:
    return {name: {"correct": c.correct.tolist(), "count": c.count.tolist()} for name, c in counts.items()}


def _figures(counts: Mapping[str, Counts]) -> dict[str, Any]:
    return {
        name: {"accuracy": found.accuracy, "worst_class": found.worst_class, "samples": int(found.count.sum())}
        for name, found in counts.items()
    }


def _dominance_record(dominance: Dominance) -> dict[str, Any]:
    return {
        "dominant": dominance.dominant,
        "ratio": {name: value.tolist() for name, value in dominance.ratio.items()},
        "temperature": {name: value.tolist() for name, value in dominance.temperature.items()},
    }


def json_ready(value: Any) -> Any:  # noqa: ANN401
    """Return ``value`` with NaN and Inf as None, since JSON has neither."""
    if isinstance(value, Mapping):
        return {key: json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def round_line(record: Mapping[str, Any], num_rounds: int) -> str:
    """Return the one line that is printed for a round."""
    width = len(str(num_rounds))
    losses = " ".join(f"{name} {value:.3f}" for name, value in record["losses"].items())
    shown = {name: value for name, value in record["accuracy"].items() if not is_head(name)}
    accuracy = " ".join(f"{name} {percent(value)}" for name, value in shown.items())
    down, up = (sum(record[key].values()) / 1e6 for key in ("bytes_down", "bytes_up"))
    parts = [
        f"round {record['round']:>{width}}/{num_rounds}",
        f"loss {losses or '-'}",
        f"dominant {record['measured']['dominant'] or '-'}",
        f"accuracy {accuracy}",
        f"{record['seconds']:.1f} s",
        f"down {down:.2f} MB up {up:.2f} MB",
    ]
    refused = len(record["refused"])
    parts += [f"{refused} refused"] if refused else []
    return " | ".join(parts + (["FAILED"] if record["failed"] else []))


def last_rounds(records: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the last rounds (at most LAST_ROUNDS, trained ones)."""
    return [record for record in records if record["round"] > 0][-LAST_ROUNDS:]


def final_accuracy(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean accuracy over the last rounds (at most LAST_ROUNDS, trained ones) of each way to predict."""
    last = [record["accuracy"] for record in last_rounds(records)]
    return {name: float(np.mean([_number(accuracy[name]) for accuracy in last])) for name in last[-1]}


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


def percent(value: float | None) -> str:
    """Return an accuracy for people; a dash where there was no sample."""
    return "-" if value is None or math.isnan(value) else f"{value:.1%}"


def held_out(config: Mapping[str, Any]) -> str:
    """Return what a run was evaluated on: the test split, or the validation part that its configuration asks for."""
    return "a validation part of the training split" if config.get("validation-share") else "the test split"


def calibrated_on(config: Mapping[str, Any]) -> str:
    """Return what a run's decisions were chosen on; empty where it had no samples for that."""
    if config["dataset"].get("splits", {}).get(VALIDATION_SPLIT):
        return f"the split {VALIDATION_SPLIT!r}"
    share = config.get("calibration-share", 0)
    return f"{share:.0%} of the training split, which no node trained on" if share else ""


def epsilon_spent(record: Mapping[str, Any]) -> str:
    """Return what a round's record says of privacy, for people; "none" for a run without."""
    spent = record.get("privacy")
    return "none" if spent is None else f"epsilon {spent['epsilon']:.3g} at delta {spent['delta']:g}"


def failed_rounds(trained: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each round that failed and left the model as it was; the line says which one and why."""
    return [record["failed"] for record in trained if record.get("failed")]


def _dominant(trained: Sequence[Mapping[str, Any]]) -> str:
    """Return the last round's dominant modality, for people; a failed round, and one without a teacher, has none."""
    measured = [record["measured"]["dominant"] for record in trained]
    return measured[-1] or ("none" if any(measured) else "not measured by this method")


def _privacy_lines(trained: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> list[str]:
    if trained[-1].get("privacy") is None:
        return []
    settings = ("dp-noise-multiplier", "dp-clip-norm", "dp-statistics-clip-norm")
    noise = ", ".join(f"{key} {config[key]:g}" for key in settings)
    planned = config["num-server-rounds"]
    spent = f"- differential privacy of nodes: {epsilon_spent(trained[-1])}, for replacing one node's data ({noise})"
    if len(trained) == planned:
        return [spent]
    return [spent, f"- ended after {len(trained)} of {planned} rounds: one more would exceed dp-max-epsilon"]


def summary(
    records: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any],
    plots: Sequence[str] = (),
    more: Sequence[str] = (),
) -> str:
    """Return summary.md: the result first, then what it took and how it was made, and more lines."""
    trained = [record for record in records if record["round"] > 0]
    last, mean = trained[-1], final_accuracy(records)
    rows = [
        f"| {name} | {percent(mean[name])} | "
        f"{' | '.join(percent(last[key][name]) for key in ('accuracy', 'macro', 'worst_class', 'calibration_error'))} |"
        for name in mean
    ]
    down, up = (sum(sum(record[key].values()) for record in trained) / 1e6 for key in ("bytes_down", "bytes_up"))
    refused, bounded = ([line for record in trained for line in record[key]] for key in ("refused", "bounded"))
    failed = failed_rounds(trained)
    return "\n".join(
        [
            f"# {config['method']} on {config['data']}, seed {config['seed']}, {len(trained)} rounds",
            "",
            f"Accuracy of the global model on {held_out(config)}, evaluated on the server.",
            "",
            f"| prediction | mean of last {min(LAST_ROUNDS, len(trained))} rounds | last round | macro | worst class "
            "| calibration error |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"- training time {sum(record['seconds'] for record in trained):.1f} s, sent to nodes {down:.2f} MB, "
            f"received {up:.2f} MB",
            f"- dominant modality in the last round: {_dominant(trained)}",
            *[f"- {line}" for line in fairness.sentences(last_rounds(records), config["dataset"]["classes"])],
            *_privacy_lines(trained, config),
            *([f"- failed rounds: {len(failed)}", *[f"  - {line}" for line in failed]] if failed else []),
            f"- replies refused or missing: {len(refused)}",
            *[f"  - {line}" for line in refused],
            *([f"- kept within bounds: {len(bounded)}", *[f"  - {line}" for line in bounded]] if bounded else []),
            "",
            *more,
            f"Files: {', '.join((*FILES, *plots))}",
            "",
        ]
    )
