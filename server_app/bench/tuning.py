"""Learning rate and own weight of each row, chosen with the same budget on a part of the training
split.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fedcmi_flwr.config.fields import ConfigError
from fedcmi_flwr.config.texts import read_assignments, write_assignments
from fedcmi_flwr.machine.atomic_files import write_atomically
from fedcmi_flwr.methods import hyperparameters
from fedcmi_flwr.run_config import HYPERPARAMETER_KEYS, read_run_config
from fedcmi_flwr.types import Scalar
from server_app.bench.configs import RunConfigs
from server_app.bench.experiments import Experiment, plan, reserve, run_all
from server_app.figures.statistics import MAIN
from server_app.launch.progress import Show
from server_app.run.directory import read_metrics
from server_app.run.records import final_accuracy

VALIDATION_SHARE = 0.2
"""Of the training split; the test split is never looked at."""
LEARNING_RATES = (0.05, 0.1, 0.2)
"""For a row whose method has a weight of its own: at the row's weight; two other weights follow
at the best of them."""
MORE_LEARNING_RATES = (0.025, 0.05, 0.1, 0.2, 0.4)
"""For the other rows; five configurations for each row either way."""
DIVERGED = "training diverged"
"""How ``client_app/train.py`` says it."""


class TuningError(ValueError):
    """Runs that failed for another reason than divergence, or a row that always diverges."""


@dataclass(frozen=True)
class Candidate:
    """One configuration of a row."""

    row: str
    values: tuple[tuple[str, Scalar], ...]
    """Run-config keys and values: the learning rate, and the own weight where there is one."""

    @property
    def name(self) -> str:
        """What its directory is called: "fedprox@lr=0.1@mu=1.0"."""
        return "@".join([self.row, *(f"{key}={value}" for key, value in self.values)])


@dataclass(frozen=True)
class Score:
    """How a candidate did."""

    candidate: Candidate
    accuracy: float
    """Mean over settings and seeds of the fused accuracy of the last rounds, in [0, 1]; 0 where
    a run diverged."""
    diverged: int
    """Runs that ended, or lost a node, because their losses were not finite."""


@dataclass(frozen=True)
class Tuning:
    """What is run, and where.

    Parameters
    ----------
    configs
        From :func:`server_app.bench.configs.bench_configs`, with a validation share.
    seeds
        Seeds 0 to N - 1.
    num_nodes
        Simulated nodes.
    jobs
        Processes at a time.
    out
        Where runs and results go.
    show
        Called with lines for people.
    """

    configs: RunConfigs
    seeds: int
    num_nodes: int
    jobs: int
    out: Path
    show: Show

    def __post_init__(self) -> None:
        """Check that nothing is chosen on the test split."""
        for rows in self.configs.values():
            for row, config in rows.items():
                if config["validation-share"] == 0:
                    raise ConfigError(
                        f"{row}: validation-share = 0; tuning looks at a validation part, never "
                        "at test."
                    )

    def run(self) -> list[Score]:
        """Run what is not finished, write tune.csv and tuned.toml, and return every score.

        Returns
        -------
        In the order of the rows' configurations.

        Raises
        ------
        TuningError
            A run failed and did not diverge, or all of a row's configurations diverged.
        """
        rows = next(iter(self.configs.values()))
        scores = self._score(
            [candidate for row, raw in rows.items() for candidate in first_candidates(row, raw)]
        )
        leaders = best(scores)
        scores += self._score(
            [other for row, raw in rows.items() for other in other_weights(leaders.get(row), raw)]
        )
        chosen = best(scores)
        write_atomically(self.out / "tune.csv", frame(scores, chosen).to_csv(index=False))
        write_atomically(self.out / "tuned.toml", tuned_toml(chosen))
        hopeless = [row for row in rows if row not in chosen]
        if hopeless:
            raise TuningError(
                f"{', '.join(hopeless)}: diverged at every learning rate; leave it out of "
                "--methods, or give all runs other values with --set."
            )

        return scores

    def _score(self, candidates: Sequence[Candidate]) -> list[Score]:
        configs = {
            setting: {c.name: {**rows[c.row], **dict(c.values)} for c in candidates}
            for setting, rows in self.configs.items()
        }
        reserve(self.out, self.num_nodes, configs)
        planned = plan(configs, self.seeds, self.num_nodes, self.out)
        failed = run_all(planned, self.jobs, False, self.show)
        broken = [str(experiment.run_dir) for experiment in failed if not diverged(experiment)]
        if broken:
            raise TuningError(
                f"failed: {', '.join(broken)}; log.txt there says why. Then call again to go on."
            )

        return [self._score_of(candidate, planned) for candidate in candidates]

    def _score_of(self, candidate: Candidate, planned: Sequence[Experiment]) -> Score:
        own = [experiment for experiment in planned if experiment.row == candidate.name]
        ended = [
            experiment for experiment in own if experiment.finished and not lost_nodes(experiment)
        ]
        lost = len(own) - len(ended)
        if lost:
            self.show(f"{candidate.name}: diverged in {lost} of {len(own)} runs; counts as worst")
            return Score(candidate, 0.0, lost)

        finals = [final_accuracy(read_metrics(experiment.run_dir))[MAIN] for experiment in ended]

        return Score(candidate, float(np.mean(finals)), 0)


def first_candidates(row: str, config: Mapping[str, Scalar]) -> list[Candidate]:
    """Return a row's configurations at its own weight.

    Three, or five where its method has no weight to tune.
    """
    weight = own_weight(config)
    if weight is None:
        return [Candidate(row, (("lr", lr),)) for lr in MORE_LEARNING_RATES]

    key, value, _ = weight

    return [Candidate(row, (("lr", lr), (key, value))) for lr in LEARNING_RATES]


def other_weights(leader: Score | None, config: Mapping[str, Scalar]) -> list[Candidate]:
    """Return the configurations with the other weights at the best learning rate so far, if there
    is one.
    """
    weight = own_weight(config)
    if weight is None or leader is None:
        return []

    key, _, others = weight
    lr = dict(leader.candidate.values)["lr"]

    return [Candidate(leader.candidate.row, (("lr", lr), (key, value))) for value in others]


def own_weight(config: Mapping[str, Scalar]) -> tuple[str, Scalar, tuple[Scalar, ...]] | None:
    """Return the key, value and other values to try of the weight that the method declares as
    ``tuning``.

    The key is ``method-options`` where a run-config has none for it, as for a method from outside.

    Parameters
    ----------
    config
        A row's run-config.

    Returns
    -------
    None where the method declares none.
    """
    method = read_run_config({**config, "seed": 0, "run-dir": ""}).method
    if method.tuning is None:
        return None

    key, others = method.tuning
    value = hyperparameters(method)[key]
    remaining = tuple(other for other in others if other != value)[:2]
    if key in HYPERPARAMETER_KEYS:
        return key, value, remaining

    chosen = read_assignments(str(config["method-options"]))
    first, *more = (write_assignments({**chosen, key: number}) for number in (value, *remaining))

    return "method-options", first, tuple(more)


def diverged(experiment: Experiment) -> bool:
    """Return whether a run ended because its losses were not finite."""
    error = experiment.run_dir / "error.txt"
    return error.is_file() and DIVERGED in error.read_text(encoding="utf-8")


def lost_nodes(experiment: Experiment) -> bool:
    """Return whether a finished run went on without a node that had diverged."""
    return any(
        DIVERGED in line
        for record in read_metrics(experiment.run_dir)
        for line in record["refused"]
    )


def best(scores: Sequence[Score]) -> dict[str, Score]:
    """Return the best score of each row, the first of equals.

    A row that diverges everywhere has none.
    """
    found: dict[str, Score] = {}
    for score in (score for score in scores if not score.diverged):
        row = score.candidate.row
        if row not in found or score.accuracy > found[row].accuracy:
            found[row] = score

    return found


def frame(scores: Sequence[Score], chosen: Mapping[str, Score]) -> pd.DataFrame:
    """Return tune.csv.

    Every configuration, its score in [0, 1], the runs that diverged, and whether it was chosen.
    """
    lines = [
        {
            "row": score.candidate.row,
            "configuration": " ".join(f"{key}={value}" for key, value in score.candidate.values),
            "score": score.accuracy,
            "diverged": score.diverged,
            "chosen": chosen.get(score.candidate.row) == score,
        }
        for score in scores
    ]
    return pd.DataFrame(lines).sort_values("row", kind="stable")


def tuned_toml(chosen: Mapping[str, Score]) -> str:
    """Return tuned.toml: a table per row, for ``fedcmi bench --tuned``."""
    lines = [
        "# Chosen by `fedcmi tune` on a part of the training split; scores are mean fused "
        "accuracies there."
    ]
    for row, score in chosen.items():
        lines += ["", f"[{json.dumps(row)}]  # score {score.accuracy:.4f}"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in score.candidate.values]

    return "\n".join([*lines, ""])
