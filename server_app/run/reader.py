"""Reads what runs left on disk, and says what is wrong with it, where, and what to do."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server_app.run.matrix import MatrixRow, matrix_table, read_matrix
from server_app.run.records import with_repeats
from server_app.run.resume import how_to_go_on

Record = Mapping[str, Any]

_CONFIG_KEYS = {"method": str, "data": str, "seed": int, "dataset": dict}
_DATASET_KEYS = {"classes": list, "modalities": list}
_RECORD_KEYS: dict[str, type | tuple[type, ...]] = {
    "round": int,
    "seconds": (int, float),
    "losses": dict,
    "teacher": (str, type(None)),
    "measured": dict,
    "accuracy": dict,
    "macro": dict,
    "worst_class": dict,
    "counts": dict,
    "known_nodes": dict,
    "refused": list,
    "bytes_down": dict,
    "bytes_up": dict,
}


class ReportError(ValueError):
    """A directory that no report can be made of."""


@dataclass(frozen=True)
class RunFiles:
    """One run, as its directory tells it."""

    path: Path
    config: Mapping[str, Any]
    """config.json; empty where the run failed before it wrote one."""
    records: Sequence[Record]
    """The rounds, round 0 first; empty where the run failed before."""
    error: str
    """error.txt: the reason on the first line, then the traceback; empty where the run did not
    fail."""
    matrix: Sequence[MatrixRow] = ()
    """matrix.json; empty where the run failed, or was made by a version that wrote none."""
    unfinished: str = ""
    """What is to be done about a run that is not over, a sentence; empty where it finished or
    failed."""

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return [str(name) for name in self.config["dataset"]["classes"]]

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities."""
        return list(self.config["dataset"]["modalities"])

    @property
    def trained(self) -> list[Record]:
        """The rounds without round 0."""
        return [record for record in self.records if record["round"] > 0]


def read_run(directory: Path, unfinished: bool = False) -> RunFiles:
    """Read a run that finished or failed.

    Parameters
    ----------
    directory
        The run directory.
    unfinished
        Whether one that goes on, or was interrupted, is read too, as far as it came.

    Returns
    -------
    The run.

    Raises
    ------
    ReportError
        The run is not over, or a file is missing or was not written by this project.
    """
    failed = (directory / "error.txt").is_file()
    if not failed and not (directory / "summary.md").is_file():
        if not unfinished:
            raise ReportError(
                f"{directory}: the run is not finished (no summary.md): wait for its end, or "
                "resume it."
            )
        return _read_unfinished(directory)

    error = (directory / "error.txt").read_text(encoding="utf-8") if failed else ""
    config = (
        {}
        if failed and not (directory / "config.json").is_file()
        else _read_config(directory / "config.json")
    )
    if not config or (failed and not (directory / "metrics.jsonl").is_file()):
        return RunFiles(directory, config, [], error)

    records = _read_records(directory / "metrics.jsonl", len(config["dataset"]["classes"]))

    return RunFiles(directory, config, records, error, _read_rows(directory / "matrix.json"))


def _read_unfinished(directory: Path) -> RunFiles:
    """Read what there is of a run that is not over.

    A round that is being written is not there yet.
    """
    config, metrics = _read_config(directory / "config.json"), directory / "metrics.jsonl"
    text = _read(metrics) if metrics.is_file() else ""
    whole = text[: text.rfind("\n") + 1]
    records = _parse_records(metrics, whole, len(config["dataset"]["classes"])) if whole else []
    command = f"fedcmi run --resume {shlex.quote(str(directory))}"
    done = max(len(records) - 1, 0)

    return RunFiles(
        directory,
        config,
        records,
        error="",
        unfinished=f"{done} of {config['num-server-rounds']} rounds are done. Where the run does not go "
        f"on by itself, {how_to_go_on(directory, command)}",
    )


def _read_config(path: Path) -> dict[str, Any]:
    config = _parse(path, _read(path), "")
    _check_keys(path, "", config, _CONFIG_KEYS)
    _check_keys(path, " dataset", config["dataset"], _DATASET_KEYS)

    return config


def _read_records(path: Path, num_classes: int) -> list[dict[str, Any]]:
    return _parse_records(path, _read(path), num_classes)


def _parse_records(path: Path, text: str, num_classes: int) -> list[dict[str, Any]]:
    lines = enumerate(text.splitlines(), start=1)
    parsed = [_parse(path, line, f" line {number}") for number, line in lines]
    records = []

    for number, record in enumerate(with_repeats(parsed), start=1):
        _check_keys(path, f" line {number}", record, _RECORD_KEYS)
        _check_counts(path, f" line {number}", record, num_classes)
        records.append(record)

    if not records:
        raise ReportError(f"{path}: holds no round; run again into another directory.")
    if any(record["accuracy"].keys() != records[0]["accuracy"].keys() for record in records):
        raise ReportError(
            f"{path}: its rounds predict in different ways; it mixes two runs: run again elsewhere."
        )

    return records


def _read_rows(path: Path) -> list[MatrixRow]:
    try:
        rows = read_matrix(path)
        matrix_table(rows)
    except (LookupError, TypeError, ValueError) as error:
        raise ReportError(
            f"{path}: not written by this version ({error!r}): run again with it."
        ) from error

    return rows


def _read(path: Path) -> str:
    if not path.is_file():
        raise ReportError(
            f"{path}: no such file; a run directory has one. Run again into another directory."
        )
    return path.read_text(encoding="utf-8")


def _parse(path: Path, text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ReportError(
            f"{path}{where}: not JSON ({error}); it was cut or edited: run again elsewhere."
        ) from error

    if not isinstance(value, dict):
        raise ReportError(
            f"{path}{where}: expected an object, found {text[:40]!r}; run again elsewhere."
        )

    return value


def _check_keys(
    path: Path, where: str, value: Mapping[str, Any], kinds: Mapping[str, type | tuple[type, ...]]
) -> None:
    for key, kind in kinds.items():
        if not isinstance(value.get(key, ...), kind):
            found = f"{key!r} is missing" if key not in value else f"{key!r} = {value[key]!r:.60}"
            raise ReportError(
                f"{path}{where}: {found}; not written by this version: run again with it."
            )


def _check_counts(path: Path, where: str, record: Record, num_classes: int) -> None:
    for name in record["accuracy"]:
        counts = record["counts"].get(name, {})
        if any(len(counts.get(key, ())) != num_classes for key in ("correct", "count")):
            raise ReportError(
                f"{path}{where}: counts of {name!r} are not those of {num_classes} classes; run "
                "again."
            )
