"""Methods x settings x seeds: run what is not finished yet, then put the table together from the run directories."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from fedcmi_flwr.evaluate import is_head
from fedcmi_flwr.methods import Scalar
from server_app.report import final_accuracy, read_metrics

CONFIDENCE = 0.95
"""Of every interval over seeds."""


@dataclass(frozen=True)
class Experiment:
    """One run of a bench."""

    recipe: Path
    method: str
    seed: int
    run_dir: Path

    @property
    def finished(self) -> bool:
        """A run writes its summary last."""
        return (self.run_dir / "summary.md").is_file()

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return the ``fedcmi run`` command of this experiment."""
        chosen = ["--recipe", str(self.recipe), "--method", self.method, "--seed", str(self.seed)]
        program = [sys.executable, "-m", "fedcmi_flwr.cli", "run", "--engine", "in-process"]
        return [*program, *chosen, "--run-dir", str(self.run_dir), *arguments]


def plan(recipes: Sequence[Path], methods: Sequence[str], seeds: int, out: Path) -> list[Experiment]:
    """Return every run of a bench, seed by seed, so that an interrupted bench has whole seeds to show."""
    names = [recipe.stem for recipe in recipes]
    if len(set(names)) < len(names):
        raise ValueError(f"recipes {[str(recipe) for recipe in recipes]}: give them different file names.")
    return [
        Experiment(recipe.absolute(), method, seed, (out / recipe.stem / method / f"seed{seed}").absolute())
        for seed in range(seeds)
        for recipe in recipes
        for method in methods
    ]


def run_all(
    experiments: Sequence[Experiment], arguments: Sequence[str], jobs: int, show: Callable[[str], None]
) -> list[Experiment]:
    """Run what is not finished, several at a time, each in a process of its own.

    Parameters
    ----------
    experiments
        From :func:`plan`.
    arguments
        More arguments of ``fedcmi run``, the same for all.
    jobs
        Processes at a time.
    show
        Called with one line for each run that ends.

    Returns
    -------
    The experiments that failed; their ``log.txt`` says why.
    """
    todo = [experiment for experiment in experiments if not experiment.finished]
    show(f"{len(experiments) - len(todo)} of {len(experiments)} runs are finished, {len(todo)} to do")
    failed, started = [], time.monotonic()
    running: set[subprocess.Popen[bytes]] = set()
    pool = ThreadPoolExecutor(jobs)
    try:
        futures = {pool.submit(_run, experiment, arguments, running): experiment for experiment in todo}
        for done, future in enumerate(as_completed(futures), start=1):
            experiment = futures[future]
            future.result()
            if not experiment.finished:
                failed.append(experiment)
            left = (time.monotonic() - started) / done * (len(todo) - done)
            state = "done" if experiment.finished else f"FAILED, see {experiment.run_dir / 'log.txt'}"
            name = f"{experiment.recipe.stem} {experiment.method} seed {experiment.seed}"
            show(f"{done}/{len(todo)} {name}: {state}; about {left / 60:.0f} min left")
    finally:  # interrupted: start nothing more and end what runs
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(running):
            process.terminate()
    return failed


def _run(experiment: Experiment, arguments: Sequence[str], running: set[subprocess.Popen[bytes]]) -> None:
    if experiment.run_dir.exists():
        shutil.rmtree(experiment.run_dir)  # what an interrupted run left
    experiment.run_dir.mkdir(parents=True)
    with (experiment.run_dir / "log.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(experiment.command(arguments), stdout=log, stderr=log)
        running.add(process)
        process.wait()
        running.discard(process)


def claim(out: Path, arguments: Sequence[str], configs: Mapping[str, Mapping[str, Scalar]]) -> None:
    """Note what a bench directory is for, or check that it is for the same.

    Parameters
    ----------
    out
        The bench directory.
    arguments
        What every run is given besides recipe, method and seed.
    configs
        Setting -> resolved run-config without method and seed.

    Raises
    ------
    ValueError
        The directory holds runs of another configuration.
    """
    path = out / "bench.json"
    text = json.dumps({"arguments": list(arguments), "settings": configs}, indent=1, sort_keys=True) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ValueError(f"{out}: holds runs of another configuration (see {path}); give another directory to --out.")
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def collect(experiments: Sequence[Experiment]) -> pd.DataFrame:
    """Return one row per finished run and prediction: setting, method, seed, prediction, accuracy, best.

    ``accuracy`` is the mean over the last rounds, ``best`` the highest of any round; both in [0, 1].
    """
    rows = []
    for experiment in (experiment for experiment in experiments if experiment.finished):
        records = read_metrics(experiment.run_dir)
        best = {name: max(record["accuracy"][name] for record in records) for name in records[-1]["accuracy"]}
        for name, accuracy in final_accuracy(records).items():
            rows.append((experiment.recipe.stem, experiment.method, experiment.seed, name, accuracy, best[name]))
    return pd.DataFrame(rows, columns=["setting", "method", "seed", "prediction", "accuracy", "best"])


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the half-width of its 95 % confidence interval (Student's t); NaN width for one value.

    Parameters
    ----------
    values
        One figure per seed.

    Returns
    -------
    Mean and half-width.

    Examples
    --------
    >>> mean, half = mean_and_interval([1.0, 2.0, 3.0])
    >>> round(mean, 3), round(half, 3)
    (2.0, 2.484)
    """
    count = len(values)
    if count < 2:
        return float(np.mean(values)), float("nan")
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
    return float(np.mean(values)), quantile * float(np.std(values, ddof=1)) / count**0.5


def table(results: pd.DataFrame, methods: Sequence[str], baseline: str) -> str:
    """Return the bench's table in Markdown.

    Parameters
    ----------
    results
        From :func:`collect`.
    methods
        Rows, in order.
    baseline
        The method that the differences are taken to, over the same seeds.

    Returns
    -------
    One table per setting: accuracy in percent with its interval, and the paired difference in points with its interval.
    """
    lines = [f"Accuracy in % (mean of the last rounds), 95 % intervals; in brackets points over {baseline}.", ""]
    for setting in results["setting"].unique():
        part = results[results["setting"] == setting]
        predictions = [name for name in part["prediction"].unique() if not is_head(name)]
        seeds = part["seed"].nunique()
        lines += [f"### {setting} ({seeds} seeds)", "", f"| method | {' | '.join(predictions)} |"]
        lines += ["|---" * (len(predictions) + 1) + "|"]
        for method in (method for method in methods if method in set(part["method"])):
            own = part[part["method"] == method]["seed"].nunique()
            name = method if own == seeds else f"{method} ({own} seeds)"
            lines.append(f"| {name} | {' | '.join(_cells(part, method, baseline, predictions))} |")
        lines.append("")
    return "\n".join(lines)


def _cells(part: pd.DataFrame, method: str, baseline: str, predictions: Sequence[str]) -> Iterator[str]:
    for prediction in predictions:
        rows = part[part["prediction"] == prediction].pivot(index="seed", columns="method", values="accuracy") * 100
        mean, half = mean_and_interval(rows[method].dropna().tolist())
        cell = f"{mean:.1f} ± {half:.1f}"
        if method != baseline and baseline in rows:
            difference, width = mean_and_interval((rows[method] - rows[baseline]).dropna().tolist())
            cell += f" ({difference:+.1f} ± {width:.1f})"
        yield cell


def write_results(experiments: Sequence[Experiment], methods: Sequence[str], baseline: str, out: Path) -> str:
    """Write results.csv and table.md below ``out`` and return the table."""
    results = collect(experiments)
    if results.empty:
        raise ValueError(f"{out}: no run finished; the logs are in {out}/*/*/seed*/log.txt.")
    results.to_csv(out / "results.csv", index=False)
    text = table(results, methods, baseline)
    (out / "table.md").write_text(text, encoding="utf-8")
    return text
