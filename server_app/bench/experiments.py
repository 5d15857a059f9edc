"""Rows x settings x seeds: run what is not finished yet, each in a process of its own."""

import json
import logging
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fedcmi_flwr.machine.atomic_files import write_atomically
from fedcmi_flwr.methods import hyperparameters
from fedcmi_flwr.run_config import read_run_config
from fedcmi_flwr.types import Scalar
from server_app.bench.configs import RunConfigs
from server_app.bench.jobs import Job, run_jobs
from server_app.launch.progress import Show
from server_app.launch.record import Launch, note
from server_app.launch.start import load_client_app, run_in_process, run_with_flower
from server_app.pyproject import run_command

RECORD = "bench.json"
"""What a bench directory is for."""
REPEATED_ON = "in-process"
"""The engine of the command that repeats a run; on any other the numbers are the same."""


@dataclass(frozen=True)
class Experiment:
    """One run of a bench."""

    setting: str
    row: str
    seed: int
    run_dir: Path
    """``out/setting/row/seedN``."""
    num_nodes: int
    config: Mapping[str, Scalar]
    """Run-config, with seed and run directory."""

    @property
    def finished(self) -> bool:
        """A run writes its summary last."""
        return (self.run_dir / "summary.md").is_file()

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.setting} {self.row} seed {self.seed}"

    def command(self) -> str:
        """Return the ``fedcmi run`` command that repeats this run elsewhere."""
        return run_command(self.config, self.num_nodes, REPEATED_ON)


def plan(configs: RunConfigs, seeds: int, num_nodes: int, out: Path) -> list[Experiment]:
    """Return every run of a bench, seed by seed, so that an interrupted bench has whole seeds to
    show.
    """

    def experiment(setting: str, row: str, seed: int) -> Experiment:
        run_dir = (out / setting / row / f"seed{seed}").absolute()
        config = {**configs[setting][row], "seed": seed, "run-dir": str(run_dir)}
        return Experiment(setting, row, seed, run_dir, num_nodes, config)

    return [
        experiment(setting, row, seed)
        for seed in range(seeds)
        for setting in configs
        for row in configs[setting]
    ]


def run_all(
    experiments: Sequence[Experiment], jobs: int, on_flower: bool, show: Show
) -> list[Experiment]:
    """Run what is not finished, several at a time, each in a process of its own.

    Parameters
    ----------
    experiments
        From :func:`plan`.
    jobs
        Processes at a time.
    on_flower
        True: on Ray; False: in the process. The numbers are the same.
    show
        Called with one line for each run that ends.

    Returns
    -------
    The experiments that failed; their ``log.txt`` says why.
    """
    todo = [experiment for experiment in experiments if not experiment.finished]
    show(
        f"{len(experiments) - len(todo)} of {len(experiments)} runs are finished, {len(todo)} to do"
    )
    by_log = {experiment.run_dir / "log.txt": experiment for experiment in todo}
    failed, done, started = [], 0, time.monotonic()

    def ended(job: Job, reason: str | None) -> None:
        nonlocal done
        done += 1
        experiment = by_log[job.log]
        state = "done"
        if reason is not None or not experiment.finished:
            failed.append(experiment)
            state = f"FAILED: {reason or 'it left no summary.md'} (see {job.log})"

        left = (time.monotonic() - started) / done * (len(todo) - done)
        show(f"{done}/{len(todo)} {experiment.name}: {state}; about {left / 60:.0f} min left")

    work = [
        Job(partial(execute, item, on_flower), log, item.run_dir.parents[2])
        for log, item in by_log.items()
    ]
    run_jobs(work, jobs, ended)

    return failed


def execute(experiment: Experiment, on_flower: bool, show: Show) -> None:
    """Run one experiment in this process.

    Parameters
    ----------
    experiment
        What to run.
    on_flower
        As for :func:`run_all`.
    show
        Called with the lines of its log.
    """
    show(f"again: {experiment.command()}")
    # The card has the same command
    note(Launch(experiment.config, experiment.num_nodes, REPEATED_ON))
    if on_flower:
        # So that the SuperLink ends too
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        run_with_flower(experiment.config, experiment.num_nodes, show)
    else:
        logging.getLogger("flwr").setLevel(logging.ERROR)
        run_in_process(
            experiment.config, experiment.num_nodes, load_client_app(), show, plots=False
        )


def reserve(out: Path, num_nodes: int, configs: RunConfigs) -> None:
    """Note what a bench directory is for, or check that it is for the same bench.

    Rows, settings and seeds may be added.

    Parameters
    ----------
    out
        The bench directory.
    num_nodes
        Simulated nodes.
    configs
        From :func:`server_app.bench.configs.bench_configs`.

    Raises
    ------
    ValueError
        The directory holds runs of another configuration.
    """
    settings = {
        setting: {row: _in_full(raw) for row, raw in rows.items()}
        for setting, rows in configs.items()
    }
    record = {"num-nodes": num_nodes, "settings": settings}
    path = out / RECORD
    if path.is_file():
        found = _read_record(path)
        differences = list(_differences(out, found, record))
        if differences:
            raise ValueError(
                f"{out}: holds runs of another configuration: {'; '.join(differences[:3])} (see "
                f"{path}). Give another directory to --out."
            )

        for setting, rows in found["settings"].items():
            settings[setting] = {**rows, **settings.get(setting, {})}

    out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(record, indent=1, sort_keys=True) + "\n")


def _in_full(raw: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return a run-config with the method's own values filled in, so that changed defaults show."""
    return {**raw, **hyperparameters(read_run_config({**raw, "seed": 0, "run-dir": ""}).method)}


def _read_record(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if set(record) != {"num-nodes", "settings"}:
        raise ValueError(
            f"{path}: not a record of this version's benches; give another directory to --out."
        )

    return record


def _differences(out: Path, found: Mapping[str, Any], record: Mapping[str, Any]) -> Iterator[str]:
    """Yield what differs for finished runs; what never finished one binds nobody."""
    if found["num-nodes"] != record["num-nodes"] and any(out.glob("*/*/seed*/summary.md")):
        yield f"num-nodes is {found['num-nodes']} there and {record['num-nodes']} here"

    for setting, rows in record["settings"].items():
        for row, config in rows.items():
            finished = any((out / setting / row).glob("seed*/summary.md"))
            there = found["settings"].get(setting, {}).get(row, config) if finished else config
            for key in sorted({*there, *config}):
                if there.get(key) != config.get(key):
                    yield (
                        f"{setting} {row}: {key} is {there.get(key)!r} there and "
                        f"{config.get(key)!r} here"
                    )
